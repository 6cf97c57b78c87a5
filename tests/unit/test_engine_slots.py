"""What of a machine is given to whom, and which engine a challenge gets."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from referee import engines
from referee.challenge import Challenge, EngineChoice, Limits, MachineType, Phase
from referee.engines import create_engine, engine_names
from referee.engines.hardware import Gpu, Hardware, this_machine
from referee.engines.local import LocalEngine, _bounded
from referee.engines.memory import MemoryEngine
from referee.engines.slots import Needs, Share, Slots
from referee.errors import ConfigurationError
from referee.objects import ObjectStore

GIB = 2**30
MACHINE = Hardware((0, 1, 2, 3), 16 * GIB, (Gpu("GPU-a", 8 * GIB), Gpu("GPU-b", 8 * GIB)))


@pytest.mark.parametrize(
    ("needs", "room"),
    [
        (Needs(1.0, GIB), 4),
        (Needs(0.5, GIB), 8),
        (Needs(0.1, GIB), 16),
        (Needs(3.0, GIB), 1),
        (Needs(5.0, GIB), 0),
        (Needs(1.0, 6 * GIB), 2),
        (Needs(1.0, 17 * GIB), 0),
        (Needs(1.0, GIB, 1), 2),
        (Needs(1.0, GIB, 2), 1),
        (Needs(1.0, GIB, 3), 0),
        (Needs(0.5, GIB, 1, gpu_sharing=3), 6),
        (Needs(0.5, GIB, 2, gpu_sharing=3), 3),
    ],
)
def test_the_scarcest_part_decides(needs: Needs, room: int) -> None:
    assert Slots(MACHINE).room(needs) == room
    assert Slots(MACHINE).fits(needs) == (room > 0)


def test_a_stated_number_of_slots_takes_the_place_of_the_processors_count() -> None:
    assert Slots(MACHINE, 6).room(Needs(1.0, GIB)) == 6
    assert Slots(MACHINE, 6).room(Needs(1.0, 8 * GIB)) == 2
    assert Slots(MACHINE, 6).room(Needs(5.0, GIB)) == 0


def test_each_processor_and_gpu_belongs_to_one() -> None:
    slots = Slots(MACHINE)
    shares = [slots.take(name, Needs(2.0, GIB, 1)) for name in ("a", "b", "c")]
    assert [share and share.cpus for share in shares] == [(0, 1), (2, 3), None]
    assert [share and share.gpus for share in shares] == [("GPU-a",), ("GPU-b",), None]
    slots.release("a")
    again = slots.take("d", Needs(1.0, GIB, 1))
    assert again is not None
    assert (again.cpus, again.gpus) == ((0,), ("GPU-a",))


def test_gpus_are_shared_by_as_many_as_the_challenge_says_the_emptiest_first() -> None:
    slots = Slots(MACHINE)
    shared = Needs(0.5, GIB, 1, gpu_sharing=2)
    shares = [slots.take(name, shared) for name in "abcde"]
    assert [share and share.gpus for share in shares] == [("GPU-a",), ("GPU-b",), ("GPU-a",), ("GPU-b",), None]
    slots.release("a")
    assert slots.room(Needs(0.5, GIB, 1)) == 0  # one is left on it
    slots.release("c")
    assert slots.take("alone", Needs(0.5, GIB, 1)) == Share((), ("GPU-a",), GIB, 0.5)
    assert slots.room(shared) == 0


def test_what_gvisor_takes_beside_an_attempt_is_set_aside_too(tmp_path: Path) -> None:
    engine = LocalEngine(
        ObjectStore(tmp_path / "objects"), tmp_path / "node", Limits(cpus=0.1, memory=GIB),
        hardware=Hardware((0, 1), 4 * GIB), level="gvisor",
    )  # fmt: skip
    try:
        assert engine.capacity().free == {"local": 2}  # of 1.5 GiB each
        assert engine.machines()["local"].memory == 4 * GIB - GIB // 2
    finally:
        engine.close()


def test_whoever_asks_for_a_part_of_a_processor_shares_all() -> None:
    share = Slots(MACHINE).take("a", Needs(0.5, GIB))
    assert share is not None
    assert share.cpus == ()


def test_what_an_earlier_controller_gave_is_counted() -> None:
    slots = Slots(MACHINE)
    slots.reserve("old", Share((1,), ("GPU-a",), 15 * GIB, 1.0))
    assert slots.room(Needs(1.0, GIB)) == 1
    share = slots.take("new", Needs(1.0, GIB, 1))
    assert share is not None
    assert (share.cpus, share.gpus) == ((0,), ("GPU-b",))


def test_memory_that_others_use_is_not_given_out_but_an_empty_machine_takes_one() -> None:
    busy = replace(MACHINE, others_bytes=13 * GIB)
    assert Slots(busy).room(Needs(1.0, GIB)) == 3
    assert Slots(busy).room(Needs(1.0, 16 * GIB)) == 1
    assert Slots(busy).fits(Needs(1.0, 16 * GIB))
    slots = Slots(busy)
    assert slots.take("a", Needs(1.0, 2 * GIB)) is not None
    assert slots.room(Needs(1.0, 2 * GIB)) == 0


def test_our_own_workers_memory_is_not_counted_twice_after_a_restart() -> None:
    slots = Slots(replace(MACHINE, others_bytes=8 * GIB))
    slots.reserve("ours", Share((0,), (), 8 * GIB, 1.0))
    assert slots.room(Needs(1.0, 8 * GIB)) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "release"]), st.integers(0, 5), st.sampled_from([0.5, 1.0, 2.0]),
            st.integers(1, 9), st.integers(0, 2),
        ),
        max_size=40,
    ),
    st.sampled_from([None, 1, 3, 9]),
)  # fmt: skip
def test_nothing_is_ever_promised_twice(steps: list[tuple[str, int, float, int, int]], count: int | None) -> None:
    slots, given_out = Slots(MACHINE, count), {}
    for action, who, cpus, gib, gpus in steps:
        if action == "release":
            slots.release(str(who))
            given_out.pop(str(who), None)
        elif str(who) not in given_out:
            share = slots.take(str(who), Needs(cpus, gib * GIB, gpus))
            if share is not None:
                given_out[str(who)] = share
        shares = given_out.values()
        for kind in ("cpus", "gpus"):
            whole = [part for share in shares for part in getattr(share, kind)]
            assert len(whole) == len(set(whole))
        assert sum(share.memory_bytes for share in shares) <= MACHINE.memory_bytes
        if count is None:
            assert sum(share.cpu_count for share in shares) <= len(MACHINE.cpus)
        else:
            assert len(shares) <= count


def test_this_machine_has_something_to_offer() -> None:
    found = this_machine()
    assert found.cpus
    assert found.memory_bytes > 0


def test_a_machine_type_offers_no_more_than_is_here() -> None:
    described = MachineType(cpus=64, memory=2**40, gpus=8, gpu_memory=2**40, speed=1.5)
    machine = _bounded(described, MACHINE)
    assert (machine.cpus, machine.memory, machine.gpus, machine.gpu_memory) == (4, 16 * GIB, 2, 8 * GIB)
    assert machine.speed == 1.5
    small = _bounded(MachineType(cpus=2, memory=GIB), MACHINE)
    assert (small.cpus, small.memory, small.gpus, small.gpu_memory) == (2, GIB, 0, None)


# The registry


def challenge(name: str, folder: Path) -> Challenge:
    phases = {"p": Phase(data=folder, visibility="public")}
    return Challenge(name="c", phases=phases, engine=EngineChoice(name=name), folder=folder)


def test_an_engine_is_found_by_name(tmp_path: Path) -> None:
    engine = create_engine(challenge("memory", tmp_path), ObjectStore(tmp_path), tmp_path)
    assert isinstance(engine, MemoryEngine)
    assert engine_names()[:2] == ["local", "memory"]


def test_an_unknown_engine_is_a_mistake_with_its_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no engine 'slrum'.*local, memory"):
        create_engine(challenge("slrum", tmp_path), ObjectStore(tmp_path), tmp_path)


def test_other_packages_add_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = ["local", "memory", "slurm", "aws-batch"]
    points = [
        EntryPoint("theirs", "referee.engines:_memory", engines.GROUP),
        EntryPoint("broken", "no.such.package:engine", engines.GROUP),
    ]
    monkeypatch.setattr(engines, "entry_points", lambda group, name=None: [p for p in points if name in (None, p.name)])
    assert engine_names() == [*shipped, "broken", "theirs"]
    assert isinstance(create_engine(challenge("theirs", tmp_path), ObjectStore(tmp_path), tmp_path), MemoryEngine)
    with pytest.raises(ConfigurationError, match=r"'broken' of no\.such\.package:engine cannot be loaded"):
        create_engine(challenge("broken", tmp_path), ObjectStore(tmp_path), tmp_path)
