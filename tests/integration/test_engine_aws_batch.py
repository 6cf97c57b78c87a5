"""Real workers placed by the stand-in for AWS Batch: machines taken back and lost, jobs doubled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_stand_in import REGION
from batch_world import KIND, MACHINES, STACK, BatchWorld, batch_world
from referee.attempts import AttemptSpec
from referee.challenge import AwsChoice
from referee.cloud import smoke as smoke_module
from referee.cloud.smoke import smoke
from referee.engines.aws_batch import AwsBatchEngine
from referee.engines.aws_batch_fleet import Fleet
from referee.engines.contract import Job, JobState
from referee.errors import ConfigurationError
from referee.objects import AlreadyExistsError
from referee.verdicts import Verdict
from referee.worker.claims import claim_key
from worker_world import GOOD, eventually, traces

pytestmark = pytest.mark.containers
SECONDS = 90.0


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[BatchWorld]:
    with batch_world(tmp_path, {f"{STACK}-c5-large": KIND}, notice_seconds=20.0) as made:
        yield made


def begun(aws: BatchWorld, engine: AwsBatchEngine, script: str) -> tuple[AttemptSpec, Job]:
    """An attempt whose worker has claimed it, and its job."""
    spec = aws.world.spec(aws.world.image(script), machine_type="c5.large")
    [job] = engine.submit([spec])
    assert eventually(lambda: aws.world.objects.exists(claim_key(spec.attempt)), SECONDS)
    return spec, job


def ended(engine: AwsBatchEngine, job: Job) -> bool:
    def look() -> bool:
        engine.wait(0.1)
        return engine.observe([job])[0].state is JobState.ENDED

    return eventually(look, SECONDS)


def nothing_is_left(aws: BatchWorld) -> bool:
    return eventually(lambda: not [trace for folder in aws.hosts() for trace in traces(folder)], SECONDS)


def test_a_worker_on_a_spot_machine_that_is_taken_back_says_so_within_the_notice(aws: BatchWorld) -> None:
    engine = aws.engine()
    spec, job = begun(aws, engine, f"{GOOD}; sleep 3600")
    [host] = aws.batch.living_hosts()
    aws.batch.reclaim(host)
    assert ended(engine, job)
    result = aws.world.result(spec)
    assert result is not None
    assert (result.verdict, result.node) == (Verdict.INTERRUPTED, host.id)
    assert engine.observe([job])[0].node == host.id
    # What comes next begins on another machine, since this one takes nothing any more.
    _, again = begun(aws, engine, GOOD)
    assert ended(engine, again)
    assert engine.observe([again])[0].node != host.id
    assert nothing_is_left(aws)


def test_on_a_spot_machine_that_is_being_taken_back_nothing_begins_and_it_says_so(tmp_path: Path) -> None:
    queues = {f"{STACK}-c5-large": KIND}
    with batch_world(tmp_path, queues, notice_seconds=60.0, boot_seconds=1.0) as aws:
        engine = aws.engine()
        spec = aws.world.spec(aws.world.image(f"{GOOD}; sleep 3600"), machine_type="c5.large")
        [job] = engine.submit([spec])
        assert eventually(lambda: bool(aws.batch.living_hosts()), SECONDS)
        [host] = aws.batch.living_hosts()
        aws.batch.reclaim(host)  # before it has booted
        assert ended(engine, job)
        result = aws.world.result(spec)
        assert result is not None
        assert (result.verdict, result.node) == (Verdict.INTERRUPTED, host.id)


def test_a_machine_that_vanishes_leaves_no_result_and_nothing_behind(aws: BatchWorld) -> None:
    engine = aws.engine()
    spec, job = begun(aws, engine, f"{GOOD}; sleep 3600")
    [host] = aws.batch.living_hosts()
    aws.batch.lose(host)
    assert ended(engine, job)
    [seen] = engine.observe([job])
    assert (seen.node, seen.lost_as) == (host.id, Verdict.NODE_LOST)
    assert aws.world.result(spec) is None
    assert nothing_is_left_running(aws)


def nothing_is_left_running(aws: BatchWorld) -> bool:
    """A machine that vanished took its disk with it; its processes and mounts must be gone from this one as well."""
    found = ("process", "mount")
    return eventually(lambda: not [t for folder in aws.hosts() for t in traces(folder) if t.startswith(found)], SECONDS)


def test_of_two_submissions_of_an_attempt_one_is_executed(aws: BatchWorld) -> None:
    spec = aws.world.spec(aws.world.image(GOOD), machine_type="c5.large")
    first, second = aws.engine(), aws.engine()
    first.capacity()
    second.capacity()  # both have looked before the other submits: two controllers, or a name that was not shown yet
    jobs = [first.submit([spec])[0], second.submit([spec])[0]]
    assert jobs[0].handle != jobs[1].handle
    assert ended(first, jobs[0])
    assert ended(second, jobs[1])
    assert sorted(aws.batch.jobs[job.handle].exit_code or 0 for job in jobs) == [0, 3]
    result = aws.world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.OK
    third = aws.engine()
    assert len(third._arrays_of) == 0
    assert len(third.adopt([spec.attempt])) == 1
    assert len(third._arrays_of[spec.attempt]) == 2
    with pytest.raises(AlreadyExistsError):
        aws.world.objects.put_once(claim_key(spec.attempt), b"{}")


def test_workers_read_their_manifest_and_no_specification(aws: BatchWorld) -> None:
    spec = aws.world.spec(aws.world.image(GOOD), machine_type="c5.large", stored=False)
    engine = aws.engine()
    [job] = engine.submit([spec])
    assert ended(engine, job)
    result = aws.world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.OK
    assert not aws.world.objects.list("specs")


def test_alone_means_that_no_machine_runs_a_second_submission(aws: BatchWorld) -> None:
    engine = aws.engine(alone=True)
    specs = [aws.world.spec(aws.world.image(GOOD), machine_type="c5.large") for _ in range(2)]
    jobs = engine.submit(specs)
    assert all(ended(engine, job) for job in jobs)
    results = [aws.world.result(spec) for spec in specs]
    assert [result and result.verdict for result in results] == [Verdict.OK, Verdict.OK]
    assert {result.node for result in results if result} == {host.id for host in aws.batch.hosts}
    assert len(aws.batch.hosts) == 2
    assert all(host.power.exists() and host.gone is not None for host in aws.batch.hosts)


def test_a_machine_with_two_host_faults_in_a_row_takes_itself_out(aws: BatchWorld) -> None:
    engine = aws.engine()
    missing = {"phase_data_key": "phases/none.json"}
    specs = [aws.world.spec(aws.world.image(GOOD), machine_type="c5.large", **missing) for _ in range(2)]
    good = aws.world.spec(aws.world.image(GOOD), machine_type="c5.large")
    for spec in specs:
        [job] = engine.submit([spec])
        assert ended(engine, job)
    [sick] = aws.batch.hosts
    assert eventually(lambda: sick.gone is not None, SECONDS)
    assert sick.power.exists()
    [job] = engine.submit([good])
    assert ended(engine, job)
    result = aws.world.result(good)
    assert result is not None
    assert (result.verdict, result.node == sick.id) == (Verdict.OK, False)


@pytest.mark.parametrize("ends", [True, False])
def test_the_smoke_test_tells_a_job_that_was_killed_from_one_that_never_began(
    aws: BatchWorld, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """On the stand-in: what it is for, it can show in an account alone."""
    # Of the machine's own checks the cheapest stands for the conformance suite.
    monkeypatch.setitem(smoke_module._CHECKS, "sandbox", ["python", "-c", "raise SystemExit(0)"])
    if not ends:
        monkeypatch.setitem(smoke_module._CHECKS, "kill", ["python", "-c", "raise SystemExit(1)"])
    steps: list[str] = []
    choice, outputs = AwsChoice(stack=STACK, region=REGION), {"JobDefinition": f"{STACK}-worker"}
    aws.batch._stop = 1.0
    fleet = Fleet(MACHINES | {"c5.large (spot)": MACHINES["c5.large"], "p3.2xlarge": MACHINES["c5.large"]})
    found = smoke(choice, fleet, outputs, on_step=steps.append, pause=lambda _: time.sleep(0.1))
    assert steps == ["c5.large: sandbox", "c5.large: metadata", "c5.large: kill"]
    assert [(each.check, each.good) for each in found] == [("sandbox", True), ("metadata", True), ("kill", ends)]
    for unknown in ("p3.2xlarge", "nonsense"):
        with pytest.raises(ConfigurationError, match=f"no machine type '{unknown}'"):
            smoke(choice, fleet, outputs, only=[unknown], on_step=steps.append)
