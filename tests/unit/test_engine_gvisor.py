"""What gVisor takes beside a submission, and that it gives no GPUs: asked of the machine by every engine alike."""

from __future__ import annotations

import pytest

from referee.challenge import Limits, MachineType
from referee.engines.aws_batch_fleet import Fleet
from referee.engines.shortages import Shortages, offered
from referee.errors import ConfigurationError
from referee.sandbox.levels import runtime_of

GIB = 2**30
EXTRA = runtime_of("gvisor").overhead.memory_bytes
T4 = MachineType(cpus=4, memory=16 * GIB, gpus=1)


def test_a_job_on_aws_batch_asks_for_gvisor_s_memory_too() -> None:
    plain, inside = Fleet({"t4": T4}), Fleet({"t4": T4}, level="gvisor")
    limits = Limits(memory=GIB)
    more = inside.needs("t4", limits, 0)["MEMORY"] - plain.needs("t4", limits, 0)["MEMORY"]
    assert more * 2**20 == EXTRA
    assert plain.offered(())["t4"].memory - inside.offered(())["t4"].memory == EXTRA
    largest = Limits(memory=plain.offered(())["t4"].memory)
    assert plain.needs("t4", largest, 0)
    with pytest.raises(ConfigurationError, match="needs"):
        inside.needs("t4", largest, 0)


def test_gvisor_offers_no_gpus_on_aws_batch() -> None:
    assert [Fleet({"t4": T4}, level=level).offered(())["t4"].gpus for level in ("runc", "gvisor")] == [1, 0]


def test_a_machine_type_that_cannot_be_had_is_left_out_where_another_does_its_work() -> None:
    machines = {"t4": T4, "a10": MachineType(cpus=8, memory=32 * GIB, gpus=1), "cpu": MachineType(cpus=8, memory=GIB)}
    assert set(offered(machines, {"t4"})) == {"a10", "cpu"}
    assert set(offered(machines, {"a10"})) == set(machines)
    assert set(offered(machines, {"t4", "a10"})) == set(machines)  # nobody is left to stand in


def test_a_shortage_ends_by_itself() -> None:
    now = [0.0]
    shortages = Shortages(lambda: now[0])
    shortages.note("t4", "None was to be had.", 60.0)
    shortages.note("cpu", "No such partition.")
    assert set(shortages.names) == {"t4", "cpu"}
    assert shortages.troubles() == ["None was to be had.", "No such partition."]
    now[0] = 61.0
    assert set(shortages.names) == {"cpu"}
    assert shortages.troubles() == ["No such partition."]
