"""What every engine must do, over the engines that there are. All but `memory` run real containers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch_world import batch_world
from referee.attempts import AttemptResult, AttemptSpec
from referee.engines.contract import Engine, Job, JobState
from referee.engines.local import LocalEngine
from referee.engines.memory import MemoryEngine, Play
from referee.objects import AlreadyExistsError
from referee.verdicts import Verdict
from referee.worker.claims import claim_key
from referee.worker.publishing import RESULT, Files, publish, result_key
from slurm_cluster import Cluster, running_cluster
from slurm_world import slurm_world
from worker_world import GOOD, LIMITS, World, make_world

PATIENCE = 400  # rounds of waiting


@dataclass
class Bench:
    """An engine, and a way to order an attempt that ends soon or (almost) never."""

    world: World
    engine: Engine
    again: Callable[[], Engine]
    quick: str
    endless: str

    def spec(self, image: str, **changes: object) -> AttemptSpec:
        return self.world.spec(image, machine_type=next(iter(self.engine.machines())), **changes)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        for _ in range(PATIENCE):
            if condition():
                return
            self.engine.wait(0.25)
        pytest.fail("it did not happen")

    def state(self, job: Job) -> JobState:
        return self.engine.observe([job])[0].state

    def began(self, job: Job) -> Callable[[], bool]:
        """A job that an engine calls running may still be loading its worker; one that has claimed runs."""
        return lambda: self.state(job) is JobState.RUNNING and self.world.objects.exists(claim_key(job.attempt))

    def ended(self, *jobs: Job) -> Callable[[], bool]:
        return lambda: all(seen.state is JobState.ENDED for seen in self.engine.observe(jobs))


def _memory(world: World) -> tuple[Engine, Callable[[], Engine]]:
    rows = "".join(f"{name},0.25\n" for name in world.data.names)

    def script(spec: AttemptSpec, _chance: object) -> Play:
        return Play(3600.0 if spec.image == "endless" else 1.0, predictions=f"filename,label\n{rows}".encode(), rows=3)

    engine = MemoryEngine(world.objects, script, slots=2)
    return engine, lambda: engine  # the simulated cluster is what survives a controller


def _local(world: World) -> tuple[Engine, Callable[[], Engine]]:
    def make() -> Engine:
        return LocalEngine(world.objects, world.node, LIMITS, slots=2)

    return make(), make


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one processor: two attempts run side by side."""
    with running_cluster(2, cpus=1) as made:
        yield made


@pytest.fixture(
    params=[
        "memory",
        pytest.param("local", marks=pytest.mark.containers),
        pytest.param("slurm", marks=pytest.mark.containers),
        pytest.param("aws-batch", marks=pytest.mark.containers),
    ]
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as held:
        if request.param == "slurm":
            world, again = held.enter_context(slurm_world(request.getfixturevalue("cluster")))
            engine: Engine = again()
        elif request.param == "aws-batch":
            aws = held.enter_context(batch_world(tmp_path))
            world, again = aws.world, aws.engine
            engine = again()
        else:
            world = make_world(tmp_path, proven=request.param == "local")
            engine, again = (_memory if request.param == "memory" else _local)(world)
        images = ("quick", "endless")
        if request.param != "memory":
            images = (world.image(GOOD), world.image(f"{GOOD}; sleep 3600"))
        made = Bench(world, engine, again, *images)
        yield made
        made.engine.close()


def result_of(bench: Bench, spec: AttemptSpec) -> AttemptResult:
    result = bench.world.result(spec)
    assert result is not None
    return result


def test_it_keeps_the_protocol_and_offers_machines(bench: Bench) -> None:
    assert isinstance(bench.engine, Engine)
    assert bench.engine.nodes()
    assert bench.engine.capacity().free == dict.fromkeys(bench.engine.machines(), 2)


def test_an_attempt_runs_and_its_result_lies_under_its_own_key(bench: Bench) -> None:
    spec = bench.spec(bench.quick)
    [job] = bench.engine.submit([spec])
    assert job.attempt == spec.attempt
    assert bench.state(job) in {JobState.WAITING, JobState.RUNNING, JobState.ENDED}
    bench.wait_for(bench.ended(job))
    result = result_of(bench, spec)
    assert (result.verdict, result.attempt, result.predictions_rows) == (Verdict.OK, spec.attempt, 3)
    assert result.node in bench.engine.nodes()
    assert bench.engine.capacity().free == dict.fromkeys(bench.engine.machines(), 2)


def test_waiting_ends_when_a_job_ends(bench: Bench) -> None:
    [job] = bench.engine.submit([bench.spec(bench.quick)])
    for _ in range(10):
        if bench.state(job) is JobState.ENDED:
            return
        bench.engine.wait(10_000.0)
    pytest.fail("it waited for something else")


def test_observations_come_in_the_order_asked_and_strangers_are_unknown(bench: Bench) -> None:
    first, second = bench.engine.submit([bench.spec(bench.endless), bench.spec(bench.endless)])
    stranger = Job("s-none.private_test.1", "nothing")
    seen = bench.engine.observe([second, stranger, first])
    assert [each.job for each in seen] == [second, stranger, first]
    assert seen[1].state is JobState.UNKNOWN
    bench.engine.cancel([first, second])


def test_what_does_not_fit_waits_its_turn(bench: Bench) -> None:
    specs = [bench.spec(bench.quick) for _ in range(5)]
    jobs = bench.engine.submit(specs)
    states = [seen.state for seen in bench.engine.observe(jobs)]
    assert states.count(JobState.RUNNING) <= 2
    assert JobState.WAITING in states
    assert set(bench.engine.capacity().free.values()) == {0}
    bench.wait_for(bench.ended(*jobs))
    assert {result_of(bench, spec).verdict for spec in specs} == {Verdict.OK}


def test_a_submission_that_is_doubled_is_executed_once(bench: Bench) -> None:
    spec = bench.spec(bench.quick)
    [job] = bench.engine.submit([spec, spec])[:1]
    bench.engine.submit([spec])
    bench.wait_for(bench.ended(job))
    stored = bench.world.objects.get(result_key(spec, RESULT))
    [again] = bench.engine.submit([spec])
    bench.wait_for(bench.ended(again))
    assert bench.world.objects.get(result_key(spec, RESULT)) == stored


def test_cancelling_ends_the_worker_in_order(bench: Bench) -> None:
    running, waiting = bench.spec(bench.endless), bench.spec(bench.endless)
    others = [bench.spec(bench.endless)]
    jobs = bench.engine.submit([running, *others, waiting])
    bench.wait_for(bench.began(jobs[0]))
    bench.engine.cancel([*jobs, Job("s-none.private_test.1", "nothing")])
    bench.wait_for(bench.ended(*jobs))
    assert result_of(bench, running).verdict is Verdict.INTERRUPTED
    assert bench.world.result(waiting) is None
    assert bench.engine.observe(jobs)[2].node is None  # what began nowhere is charged to nobody


def test_jobs_are_found_again_when_the_controller_is_lost(bench: Bench) -> None:
    spec = bench.spec(bench.endless)
    bench.engine.submit([spec])
    bench.engine.close()
    bench.engine = bench.again()
    assert set(bench.engine.capacity().free.values()) == {1}
    [job] = bench.engine.adopt([spec.attempt, "s-none.private_test.1"])
    assert job.attempt == spec.attempt
    bench.wait_for(bench.began(job))
    bench.engine.cancel([job])
    bench.wait_for(bench.ended(job))
    assert result_of(bench, spec).verdict is Verdict.INTERRUPTED
    assert set(bench.engine.capacity().free.values()) == {2}


def test_a_result_that_comes_second_is_refused(bench: Bench) -> None:
    """A worker that was declared lost comes back late, or the other way round: the first result stays."""
    spec = bench.spec(bench.quick)
    other = bench.spec(bench.quick)
    jobs = bench.engine.submit([spec, other])
    first = AttemptResult.model_validate(_facts(spec))
    publish(bench.world.objects, spec, first, Files())
    bench.wait_for(bench.ended(*jobs))
    assert result_of(bench, spec).detail == "the first"
    with pytest.raises(AlreadyExistsError):
        publish(bench.world.objects, other, AttemptResult.model_validate(_facts(other)), Files())


def _facts(spec: AttemptSpec) -> dict[str, object]:
    return {
        "attempt": spec.attempt,
        "verdict": Verdict.NONZERO_EXIT,
        "detail": "the first",
        "node": "n",
        "boot_id": "b",
        "machine_type": spec.machine_type,
        "level": spec.level,
        "started_at": "2026-01-01T00:00:00Z",
        "ended_at": "2026-01-01T00:00:00Z",
        "worker_version": "0",
    }
