"""What is particular to the engine `local`: the launcher, locks instead of process ids, what does not fit."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from referee.boot import boot_id
from referee.engines.contract import JobState
from referee.engines.local import LocalEngine
from referee.engines.processes import end_workers
from referee.errors import HostError
from referee.verdicts import Verdict
from referee.worker.lock import Holder, is_held, read_holder, start_ticks
from referee.worker.publishing import LOG, result_key
from worker_world import GOOD, LIMITS, World, eventually, make_world

pytestmark = pytest.mark.containers


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def engine(world: World) -> Iterator[LocalEngine]:
    made = LocalEngine(world.objects, world.node, LIMITS, slots=2)
    yield made
    made.close()


def test_workers_have_a_session_of_their_own(world: World, engine: LocalEngine) -> None:
    """So that neither Ctrl-C nor the end of a terminal reaches them."""
    spec = world.spec(world.image("sleep 3600"))
    jobs = engine.submit([spec])
    holder = read_holder(world.node, spec.attempt)
    assert holder is not None
    assert os.getsid(holder.pid) != os.getsid(0)
    os.kill(holder.pid, signal.SIGINT)
    engine.wait(0.3)
    assert engine.observe(jobs)[0].state is JobState.RUNNING
    engine.cancel(jobs)


def test_a_process_that_took_over_a_worker_s_id_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as innocent:
        try:
            ticks = start_ticks(innocent.pid)
            assert ticks is not None
            end_workers([Holder(innocent.pid, ticks - 1, boot_id(), "j")], 0.1)
            end_workers([Holder(innocent.pid, ticks, "another boot", "j")], 0.1)
            assert innocent.poll() is None
            end_workers([Holder(innocent.pid, ticks, boot_id(), "j")], 5.0)
            assert innocent.wait(5) == -signal.SIGTERM
        finally:
            innocent.kill()


def test_a_worker_that_does_not_stop_is_killed(
    world: World, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = world.spec(world.image("sleep 3600"))
    jobs = engine.submit([spec])
    holder = read_holder(world.node, spec.attempt)
    assert holder is not None
    os.kill(holder.pid, signal.SIGSTOP)  # neither hands on SIGTERM nor ends
    monkeypatch.setattr("referee.engines.local._GRACE_SECONDS", 0.2)
    engine.cancel(jobs)
    assert eventually(lambda: engine.observe(jobs)[0].state is JobState.ENDED)
    assert world.result(spec) is None


def test_each_attempt_has_processors_of_its_own(world: World, engine: LocalEngine) -> None:
    image = world.image("/bin/busybox grep -i cpus_allowed_list /proc/self/status; sleep 1")
    engine.close()
    alone = LocalEngine(world.objects, world.node, LIMITS)
    specs = [world.spec(image) for _ in alone.capacity().free for _ in range(alone.capacity().free["local"])]
    jobs = alone.submit(specs)
    assert eventually(lambda: all(seen.state is JobState.ENDED for seen in alone.observe(jobs)))
    seen = [world.objects.get(result_key(spec, LOG)) for spec in specs]
    assert len(set(seen)) == len(seen)
    alone.close()


def test_what_can_never_fit_is_refused_at_once(world: World, engine: LocalEngine) -> None:
    limits = LIMITS.model_copy(update={"memory": 2**50})
    with pytest.raises(HostError, match="needs more than this machine has"):
        engine.submit([world.spec("sha256:" + "0" * 64, limits=limits)])
    with pytest.raises(HostError, match="needs more than this machine has"):
        engine.submit([world.spec("sha256:" + "0" * 64, gpus=64)])


def test_a_launcher_that_dies_while_it_is_asked_is_replaced(world: World, engine: LocalEngine) -> None:
    for _ in range(5):
        launcher = engine._launcher
        assert launcher is not None
        os.kill(launcher._process.pid, signal.SIGKILL)
        spec = world.spec(world.image(GOOD))
        jobs = engine.submit([spec])
        assert eventually(lambda jobs=jobs: engine.observe(jobs)[0].state is JobState.ENDED)
        result = world.result(spec)
        assert result is not None
        assert result.verdict is Verdict.OK, result.detail


def test_a_node_that_was_left_in_disorder_is_cleared_at_the_start(world: World) -> None:
    (world.node / "run" / "s-dead.p.1" / "box").mkdir(parents=True)
    (world.node / "run" / "s-dead.p.1" / "lock").touch()
    LocalEngine(world.objects, world.node, LIMITS).close()
    assert list((world.node / "run").iterdir()) == []
    assert not is_held(world.node, "s-dead.p.1")
