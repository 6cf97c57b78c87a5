"""SIGKILL at random moments: of the inner worker, the outer worker, or the launcher, with real containers running."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from referee.attempts import AttemptSpec
from referee.engines.contract import Job, JobState
from referee.engines.local import LocalEngine
from referee.sandbox.sweep import remove_leaf
from referee.verdicts import Verdict
from referee.worker.lock import is_held, read_holder
from referee.worker.main import main
from worker_world import GOOD, LIMITS, World, eventually, make_world, traces

pytestmark = pytest.mark.containers

ROUNDS = 8
SEED = 20261122


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def engine(world: World) -> Iterator[LocalEngine]:
    made = LocalEngine(world.objects, world.node, LIMITS, slots=2)
    yield made
    made.close()


def outer_of(world: World, spec: AttemptSpec) -> int:
    holder = read_holder(world.node, spec.attempt)
    return holder.pid if holder is not None else 0


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def processes(world: World, marker: str) -> list[str]:
    return [trace for trace in traces(world.node, marker) if trace.startswith("process ")]


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def ended(engine: LocalEngine, job: Job) -> bool:
    engine.wait(0.1)
    return engine.observe([job])[0].state is JobState.ENDED


@pytest.mark.parametrize("victim", ["inner", "outer"])
def test_a_worker_that_is_killed_leaves_nothing_and_is_seen_to_have_ended(
    world: World, engine: LocalEngine, victim: str
) -> None:
    """At random moments between the worker's start and after its container's end; the container would never end."""
    chance = random.Random(f"{SEED}:{victim}")
    results = 0
    for _ in range(ROUNDS):
        marker = f"3600.{secrets.randbelow(10**9)}"
        # Daemons in sessions of their own, as deep as they go: nothing may escape its namespace.
        spec = world.spec(
            world.image(f"setsid sleep {marker} & (setsid setsid sleep {marker} &) ; {GOOD}; sleep {marker}")
        )
        [job] = engine.submit([spec])
        outer = outer_of(world, spec)
        assert outer
        assert eventually(lambda outer=outer: children(outer) != [])  # a slow machine may not have forked it yet
        time.sleep(chance.random() * 0.25)
        if victim == "inner":
            assert eventually(lambda outer=outer: children(outer) != [])  # on a busy machine it is not there at once
        for pid in [outer] if victim == "outer" else children(outer):
            kill(pid)
        assert eventually(lambda job=job: ended(engine, job))
        results += world.result(spec) is not None
        assert eventually(lambda marker=marker: traces(world.node, marker) == []), traces(world.node, marker)
        assert engine.capacity().free == {"local": 2}
    assert results == 0


def test_the_launcher_s_death_loses_nothing(world: World, engine: LocalEngine) -> None:
    """Its workers go on, are found again, and the next one is started by a new launcher."""
    chance = random.Random(SEED)
    image = world.image(f"{GOOD}; sleep 0.3")
    for _ in range(ROUNDS):
        specs = [world.spec(image), world.spec(image)]
        jobs = engine.submit(specs)
        time.sleep(chance.random() * 0.3)
        assert engine._launcher is not None
        kill(engine._launcher._process.pid)
        for job, spec in zip(jobs, specs, strict=True):
            assert eventually(lambda job=job: ended(engine, job))
            result = world.result(spec)
            assert result is not None
            assert result.verdict is Verdict.OK, result.detail
        assert eventually(lambda: traces(world.node) == []), traces(world.node)


def test_workers_outlive_their_controller_and_the_launcher_ends_with_the_last(world: World) -> None:
    """The controller is a process of its own that is killed with SIGKILL at random moments."""
    chance = random.Random(SEED)
    image = world.image(f"{GOOD}; sleep 0.5")
    for _ in range(ROUNDS):
        spec = world.spec(image)
        controller = os.fork()
        if controller == 0:
            try:
                LocalEngine(world.objects, world.node, LIMITS, slots=2).submit([spec])
                time.sleep(60)
            finally:
                os._exit(0)
        assert eventually(lambda spec=spec: is_held(world.node, spec.attempt) or world.result(spec) is not None)
        time.sleep(chance.random() * 0.5)
        kill(controller)
        os.waitpid(controller, 0)
        engine = LocalEngine(world.objects, world.node, LIMITS, slots=2)
        adopted = engine.adopt([spec.attempt])
        for job in adopted:
            assert eventually(lambda job=job, engine=engine: ended(engine, job))
        result = world.result(spec)
        assert result is not None
        assert result.verdict is Verdict.OK, result.detail
        engine.close()
        assert eventually(lambda: traces(world.node) == []), traces(world.node)


def test_a_worker_started_by_hand_leaves_nothing_either(world: World) -> None:
    """Without a launcher there is nobody to sweep after the outer process: the next engine on the node does."""
    marker = f"3600.{secrets.randbelow(10**9)}"
    spec = world.spec(world.image(f"sleep {marker}"))
    worker = os.fork()
    if worker == 0:
        try:
            main(
                [
                    f"specs/{spec.attempt}.json",
                    "--objects",
                    world.objects.location,
                    "--node",
                    str(world.node),
                    "--job",
                    "j",
                ]
            )
        finally:
            os._exit(0)
    assert eventually(lambda: processes(world, marker) != [])
    kill(worker)
    os.waitpid(worker, 0)
    assert eventually(lambda: processes(world, marker) == []), processes(world, marker)
    LocalEngine(world.objects, world.node, LIMITS).close()
    assert eventually(lambda: traces(world.node, marker) == []), traces(world.node, marker)
    assert world.result(spec) is None


def test_what_a_killed_worker_was_starting_is_swept_only_after_its_whole_namespace_has_ended(tmp_path: Path) -> None:
    """The lock is free before the kernel has ended the runtime, which may be making the sandbox's cgroups."""
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "60"]) as outer:
        assert eventually(lambda: children(outer.pid) != [])
        [inner] = children(outer.pid)
        (tmp_path / "namespace").write_text(str(Path(f"/proc/{inner}/ns/pid").readlink()))
        (tmp_path / "cgroups.json").write_text("[]")
        with ThreadPoolExecutor(1) as pool:
            sweeping = pool.submit(remove_leaf, tmp_path / "cgroups.json")
            time.sleep(0.3)
            assert not sweeping.done()
            kill(inner)
            sweeping.result(30)
