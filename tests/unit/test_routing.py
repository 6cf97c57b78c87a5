"""Which machine type an evaluation goes to, above all once its GPU memory has run out."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest
from campaign_world import Stage, ok

from referee.attempts import AttemptSpec
from referee.challenge import Challenge, Limits, MachineType
from referee.engines.memory import Play
from referee.policy import Demand, Outcome, outgrown
from referee.routing import NoRoute, Route, route
from referee.verdicts import Verdict


def gpu(gpu_memory_gib: int, price: str, **more: object) -> MachineType:
    return MachineType(
        cpus=8,
        memory=2**36,
        gpus=1,
        gpu_memory=gpu_memory_gib * 2**30,
        price=Decimal(price),
        **more,  # type: ignore[arg-type] # fields of a machine type
    )


MACHINES = {"t4": gpu(16, "0.5", reference=True), "v100": gpu(32, "3"), "a100": gpu(80, "9")}
CHALLENGE = Challenge.model_construct(limits=Limits())


def chosen(demand: Demand, *ran_out_on: str, machines: dict[str, MachineType] = MACHINES) -> str:
    found = route(CHALLENGE, machines, "gpu", demand, outgrown=ran_out_on)
    assert isinstance(found, Route)
    return found.machine_type


def test_the_cheapest_that_fits_and_what_all_lack_otherwise() -> None:
    assert chosen(Demand.ANY) == "t4"
    found = route(CHALLENGE, {"c": MachineType(cpus=8, memory=2**36)}, "gpu", Demand.ANY)
    assert found == NoRoute("No machine type fits. c: has 0 GPUs, 1 needed.")


def test_more_gpu_memory_is_more_than_where_it_ran_out_not_than_where_it_was_last() -> None:
    assert chosen(Demand.MORE_GPU_MEMORY, "t4") == "v100"
    assert chosen(Demand.MORE_GPU_MEMORY, "t4", "v100") == "a100"
    only_two = {name: MACHINES[name] for name in ("t4", "v100")}
    assert chosen(Demand.MORE_GPU_MEMORY, "t4", machines=only_two) == "v100"


def test_where_it_ran_out_counts_also_while_that_type_cannot_be_had() -> None:
    challenge = Challenge.model_construct(limits=Limits(), machines=MACHINES)
    there = {name: MACHINES[name] for name in ("t4", "a100")}
    found = route(challenge, there, "gpu", Demand.MORE_GPU_MEMORY, outgrown=("v100",))
    assert isinstance(found, Route)
    assert found.machine_type == "a100"


def test_a_machine_type_is_the_reference_by_declaration_or_as_the_only_one_that_there_is() -> None:
    def is_reference(machines: dict[str, MachineType], declared: dict[str, MachineType], only: str | None) -> bool:
        challenge = Challenge.model_construct(limits=Limits(), machines=declared)
        found = route(challenge, machines, "gpu", Demand.ANY, only=only)
        assert isinstance(found, Route)
        return found.reference

    v100 = {"v100": MACHINES["v100"]}
    assert is_reference(v100, {}, None)
    assert is_reference(MACHINES, MACHINES, "t4")
    assert not is_reference(MACHINES, {}, "v100")  # others are there, only not asked for
    assert not is_reference(v100, MACHINES, None)  # the declared one cannot be had now
    assert route(CHALLENGE, MACHINES, "gpu", Demand.ANY, only="h100") == NoRoute(
        "The engine has no machine type h100 now, to which the run is bound."
    )


def test_what_ran_out_is_known_from_every_attempt() -> None:
    history = [
        Outcome("e", Verdict.GPU_OUT_OF_MEMORY, machine_type="t4", smoke=True),
        Outcome("e", Verdict.OK, machine_type="v100", smoke=True),
        Outcome("e", Verdict.NODE_LOST, machine_type="v100"),
    ]
    assert outgrown(history) == {"t4"}


@pytest.mark.parametrize("smoke", [False, True])
def test_after_a_host_fault_or_a_smoke_run_it_stays_where_its_memory_suffices(tmp_path: Path, smoke: bool) -> None:
    stage = Stage(tmp_path, count=1, kinds=("gpu",), text="[smoke]\nitems = 1\n" if smoke else "")
    lost = []

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        if spec.machine_type == "t4":
            return Play(verdict=Verdict.GPU_OUT_OF_MEMORY)
        if not lost:
            lost.append(spec.attempt)
            return Play(verdict=Verdict.NODE_LOST)
        return ok(spec, chance)

    machines = {name: MACHINES[name] for name in ("t4", "v100")}
    stage.run(stage.engine(script, machines=machines, nodes={"t4": ["t"], "v100": ["v1", "v2"]}))
    assert stage.verdicts() == {Verdict.OK: 1}
    assert [row.machine_type for row in stage.attempts()] == ["t4"] + ["v100"] * (2 + smoke)
