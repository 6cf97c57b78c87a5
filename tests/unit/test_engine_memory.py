"""The simulated engine: what can happen to a campaign happens on demand, the same each time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from referee.attempts import AttemptResult, AttemptSpec
from referee.challenge import Contract, Limits, MachineType, PredictionFormat
from referee.engines.contract import Job, JobState
from referee.engines.memory import Faults, MemoryEngine, Play, always_ok
from referee.errors import HostError
from referee.objects import ObjectMissingError, ObjectStore
from referee.verdicts import Verdict
from referee.worker.publishing import PREDICTIONS, RESULT, result_key


@pytest.fixture
def objects() -> ObjectStore:
    return ObjectStore("memory:///")


def spec(number: int, machine_type: str = "local") -> AttemptSpec:
    return AttemptSpec(
        attempt=f"s-{number}.p.1", evaluation=f"s-{number}.p", campaign="c", submission=f"s-{number}", phase="p",
        image="i", phase_data_key="k", result_key=f"secret-{number}", private=True, machine_type=machine_type,
        contract=Contract(), limits=Limits(), predictions=PredictionFormat(),
    )  # fmt: skip


def result(objects: ObjectStore, of: AttemptSpec) -> AttemptResult | None:
    try:
        return AttemptResult.model_validate_json(objects.get(result_key(of, RESULT)))
    except ObjectMissingError:
        return None


def script(**facts: object) -> object:
    return lambda _spec, _chance: Play(**facts)  # type: ignore[arg-type] - a table of keyword arguments


def run_out(engine: MemoryEngine, jobs: list[Job]) -> None:
    for _ in range(100_000):
        if all(seen.state is JobState.ENDED for seen in engine.observe(jobs)):
            return
        engine.wait(1e9)
    pytest.fail("it never ended")


def test_time_passes_only_when_somebody_waits(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(seconds=100.0))
    [job] = engine.submit([spec(1)])
    assert (engine.now, engine.observe([job])[0].state) == (0.0, JobState.RUNNING)
    engine.advance(99.0)
    assert engine.observe([job])[0].state is JobState.RUNNING
    engine.wait(1e9)
    assert (engine.now, engine.observe([job])[0].state) == (100.0, JobState.ENDED)
    engine.wait(5.0)
    assert engine.now == 105.0


def test_results_are_published_as_workers_do(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(seconds=7.0, predictions=b"p", rows=1))
    run_out(engine, engine.submit([spec(1)]))
    found = result(objects, spec(1))
    assert found is not None
    assert (found.verdict, found.predictions_rows, found.node) == (Verdict.OK, 1, "local-1")
    assert (found.ended_at - found.started_at).total_seconds() == 7.0
    assert objects.get(result_key(spec(1), PREDICTIONS)) == b"p"
    assert objects.exists("claims/s-1.p.1.json")


def test_a_doubled_submission_runs_two_workers_and_executes_once(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, always_ok, slots=50, faults=Faults(double=1.0))
    specs = [spec(number) for number in range(20)]
    run_out(engine, engine.submit(specs))
    assert set(engine.executed.values()) == {1}
    assert {result(objects, each).verdict for each in specs} == {Verdict.OK}  # type: ignore[union-attr]


def test_a_lost_reply_is_an_error_of_something_that_happened(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, always_ok, faults=Faults(lose_reply=1.0))
    with pytest.raises(HostError, match="reply was lost"):
        engine.submit([spec(1)])
    jobs = engine.adopt(["s-1.p.1", "s-2.p.1"])
    assert [job.attempt for job in jobs] == ["s-1.p.1"]
    run_out(engine, jobs)
    assert result(objects, spec(1)) is not None


def test_a_delayed_submission_waits_with_a_free_slot(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, always_ok, faults=Faults(delay=1.0, delay_seconds=60.0))
    [job] = engine.submit([spec(1)])
    assert engine.observe([job])[0].state is JobState.WAITING
    engine.advance(60.0)
    assert engine.observe([job])[0].state is JobState.RUNNING


def test_a_zombie_publishes_late_and_is_refused_if_another_result_counts(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(seconds=1.0, zombie_seconds=10.0))
    run_out(engine, engine.submit([spec(1), spec(2)]))
    assert (result(objects, spec(1)), result(objects, spec(2))) == (None, None)
    objects.put_once(result_key(spec(2), RESULT), b"the first")
    engine.advance(10.0)
    assert result(objects, spec(1)) is not None
    assert objects.get(result_key(spec(2), RESULT)) == b"the first"
    assert engine.refused == ["s-2.p.1"]


def test_a_lost_node_takes_its_work_with_it_and_gets_no_more(objects: ObjectStore) -> None:
    machine = MachineType(cpus=1, memory=2**30)
    engine = MemoryEngine(objects, script(seconds=10.0), machines={"m": machine}, nodes={"m": ["n1", "n2"]})
    specs = [spec(number, "m") for number in range(4)]
    jobs = engine.submit(specs)
    engine.lose_node("n1")
    assert engine.nodes() == ["n2"]
    run_out(engine, jobs)
    found = [result(objects, each) for each in specs]
    assert [each.node if each else None for each in found] == [None, "n2", "n2", "n2"]
    assert engine.capacity().free == {"m": 1}


def test_an_interrupted_worker_says_so(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(seconds=10.0))
    jobs = engine.submit([spec(1)])
    engine.advance(3.0)
    engine.interrupt("s-1.p.1")
    assert engine.observe(jobs)[0].state is JobState.ENDED
    found = result(objects, spec(1))
    assert found is not None
    assert found.verdict is Verdict.INTERRUPTED
    engine.advance(100.0)
    assert result(objects, spec(1)) == found


def test_a_worker_that_is_lost_leaves_no_result(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(verdict=Verdict.NODE_LOST))
    run_out(engine, engine.submit([spec(1)]))
    assert result(objects, spec(1)) is None


def test_an_unknown_machine_type_is_refused(objects: ObjectStore) -> None:
    with pytest.raises(HostError, match="no machine type 'p3'"):
        MemoryEngine(objects).submit([spec(1, "p3")])


def chancy(_spec: AttemptSpec, chance: random.Random) -> Play:
    verdict = chance.choice([Verdict.OK, Verdict.NONZERO_EXIT, Verdict.NODE_LOST, Verdict.HOST_FULL])
    return Play(seconds=chance.expovariate(1 / 60), verdict=verdict)


def history(seed: int, order: list[int]) -> Iterator[tuple[str, Verdict | None, float]]:
    objects = ObjectStore("memory:///")
    engine = MemoryEngine(objects, chancy, slots=500, faults=Faults(double=0.2, delay=0.2), seed=seed)
    run_out(engine, engine.submit([spec(number) for number in order]))
    for number in range(len(order)):
        found = result(objects, spec(number))
        seconds = found.measurements.wall_seconds if found and found.measurements else 0.0
        yield spec(number).attempt, found.verdict if found else None, seconds


def test_the_same_seed_tells_the_same_story_in_any_order_of_submission() -> None:
    numbers = list(range(200))
    shuffled = random.Random(1).sample(numbers, len(numbers))
    first = list(history(7, numbers))
    assert first == list(history(7, numbers))
    assert [row[:2] for row in first] == [row[:2] for row in history(7, shuffled)]
    assert first != list(history(8, numbers))


def test_work_queues_for_slots_and_time_adds_up(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(seconds=10.0), slots=4)
    run_out(engine, engine.submit([spec(number) for number in range(1000)]))
    assert engine.now == 1000 / 4 * 10.0


def test_a_killed_worker_publishes_nothing_and_a_fresh_node_takes_the_next(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(seconds=10.0))
    [first, second] = engine.submit([spec(1), spec(2)])
    engine.advance(3.0)
    engine.kill("s-1.p.1")
    assert engine.observe([first])[0].state is JobState.ENDED
    engine.lose_node("local-1")
    engine.start_node("local", "local-2")
    run_out(engine, [second])
    assert result(objects, spec(1)) is None
    assert [(each.attempt, each.node, each.began, each.ended) for each in engine.executions] == [
        ("s-1.p.1", "local-1", 0.0, 3.0),
        ("s-2.p.1", "local-1", 3.0, 3.0),
    ]


def test_a_zombie_s_execution_ends_when_it_really_does(objects: ObjectStore) -> None:
    engine = MemoryEngine(objects, script(seconds=2.0, zombie_seconds=5.0))
    run_out(engine, engine.submit([spec(1)]))
    assert engine.executions[0].ended == 2.0
    engine.advance(10.0)
    assert engine.executions[0].ended == 7.0
