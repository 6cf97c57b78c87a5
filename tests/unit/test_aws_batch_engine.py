"""The engine `aws-batch` on the stand-in, with time that passes on demand: limits, lost replies, silence, jams."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from batch_stand_in import REGION, Host, Job
from batch_world import KIND, MACHINES, STACK, BatchWorld, batch_world
from referee.attempts import AttemptSpec
from referee.challenge import AwsChoice, MachineType, load_challenge
from referee.cloud.stack import Account
from referee.engines import aws_batch_child as child
from referee.engines.aws_batch import AwsBatchEngine
from referee.engines.aws_batch_calls import BatchCalls, UnansweredError
from referee.engines.aws_batch_fleet import Fleet, fleet_of, registered_bytes
from referee.engines.aws_batch_follow import Child
from referee.engines.aws_batch_heartbeat import Heartbeat
from referee.engines.aws_batch_machine import Machine
from referee.engines.contract import Job as EngineJob
from referee.engines.contract import JobState, Remote
from referee.engines.machine_lives import noted_lives
from referee.engines.waves import read_manifest, record_wave
from referee.errors import ConfigurationError, HostError
from referee.objects import ObjectStore
from referee.verdicts import Verdict
from referee.worker.claims import claim
from referee.worker.lock import take_lock
from worker_world import LIMITS


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """An execution without a process: it ends after ten seconds with status 0, or as it is told."""

    seconds = 10.0

    def __init__(self, clock: Time) -> None:
        self._clock, self._until, self._code = clock, clock.now + self.seconds, 0

    def poll(self) -> int | None:
        return self._code if self._clock.now >= self._until else None

    def terminate(self) -> None:
        self._until, self._code = self._clock.now, 143

    def kill(self) -> None:
        self._until, self._code = self._clock.now, 137


class Bench:
    """The world, its time, and engines on it."""

    def __init__(self, aws: BatchWorld, clock: Time) -> None:
        self.aws, self.batch, self.clock, self._numbers = aws, aws.batch, clock, itertools.count(1)
        self.engine = self.another()

    def another(self, **settings: object) -> AwsBatchEngine:
        return self.aws.engine(clock=self.clock, pause=self.go_on, **{"listen": 5.0, **settings})  # type: ignore[arg-type]  # handed on as they came

    def go_on(self, seconds: float = 1.0) -> None:
        for _ in range(5):
            self.clock.now += seconds / 5
            self.batch.tick()

    def specs(self, count: int, machine_type: str = "c5.large", **changes: object) -> list[AttemptSpec]:
        given: dict[str, object] = {"machine_type": machine_type, "stored": False, **changes}
        names = [f"s-{next(self._numbers):06x}.private_test.1" for _ in range(count)]
        return [self.aws.world.spec("sha256:0", attempt=name, **given) for name in names]  # type: ignore[arg-type]  # handed on

    def states(self, jobs: Sequence[EngineJob]) -> list[JobState]:
        return [seen.state for seen in self.engine.observe(jobs)]

    def run_out(self, jobs: Sequence[EngineJob], most: int = 100) -> None:
        for _ in range(most):
            if set(self.states(jobs)) == {JobState.ENDED}:
                return
            self.engine.wait(5.0)
        pytest.fail("it did not end")

    def submitted(self) -> list[Job]:
        return [job for job in self.batch.jobs.values() if job.parent is None]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    clock = Time()
    Scripted.seconds = 10.0

    def start(_host: Host, _command: Sequence[str], _environment: Mapping[str, str]) -> Scripted:
        return Scripted(clock)

    queues = {f"{STACK}-c5-large": KIND, f"{STACK}-c5-large-spot": KIND}
    with batch_world(tmp_path, queues, proven=False, ticking=False, start=start, clock=clock) as aws:
        yield Bench(aws, clock)


# The stand-in is strict


def refused(call: object, **request: object) -> str:
    with pytest.raises(ClientError) as refusal:
        call(**request)  # type: ignore[operator]  # any operation
    return str(refusal.value.response["Error"]["Code"])


@pytest.mark.parametrize("size", [0, 1, 10_001])
def test_arrays_have_two_to_ten_thousand_children(bench: Bench, size: int) -> None:
    request = {"jobName": "j", "jobQueue": f"{STACK}-c5-large", "jobDefinition": f"{STACK}-worker"}
    assert refused(boto3.client("batch").submit_job, **request, arrayProperties={"size": size}) == "ClientException"


def test_a_hundred_jobs_are_described_and_not_one_more(bench: Bench) -> None:
    assert refused(boto3.client("batch").describe_jobs, jobs=["x"] * 101) == "ClientException"


def test_the_stand_in_tries_again_as_often_as_it_is_told(bench: Bench) -> None:
    request = {"jobName": "j", "jobQueue": f"{STACK}-c5-large", "jobDefinition": f"{STACK}-worker"}
    job = boto3.client("batch").submit_job(**request, retryStrategy={"attempts": 3})["jobId"]
    for _ in range(60):
        bench.go_on()
        for host in bench.batch.living_hosts():
            if host.jobs:
                bench.batch.lose(host)
    assert bench.batch.jobs[job].status == "FAILED"
    assert len(bench.batch.jobs[job].attempts) == 3


def test_fifty_submissions_a_second_and_then_later(bench: Bench) -> None:
    engine = bench.another(slots=100)
    engine.calls._pause = lambda _seconds: bench.go_on(2.0)
    for spec in bench.specs(60):
        engine.submit([spec])
    assert len(bench.submitted()) == 60
    assert engine.calls.counts["SubmitJob"] > 60
    assert "TooManyRequests" not in bench.engine.troubles()


# Submitting


def test_many_attempts_are_one_array_that_is_tried_once_and_ends_by_itself(bench: Bench) -> None:
    assert isinstance(bench.engine, Remote)
    specs = bench.specs(7)
    jobs = bench.engine.submit(specs)
    [array] = bench.submitted()
    assert (array.size, array.tries, array.request["retryStrategy"]) == (7, 1, {"attempts": 1})
    assert array.request["timeout"]["attemptDurationSeconds"] == LIMITS.wall_time.total_seconds() + 3600
    assert array.request["tags"]["referee"] == STACK
    assert [job.handle for job in jobs] == [f"{array.id}:{index}" for index in range(7)]
    wave = next(each["value"] for each in environment_of(array) if each["name"] == "REFEREE_WAVE")
    assert [read_manifest(bench.aws.world.objects, wave, index) for index in range(7)] == specs
    bench.run_out(jobs)
    assert {job.status for job in bench.batch.children(array.id)} == {"SUCCEEDED"}


def environment_of(job: Job) -> list[dict[str, str]]:
    return list(job.request["containerOverrides"]["environment"])


def test_one_attempt_is_a_job_without_an_array(bench: Bench) -> None:
    jobs = bench.engine.submit(bench.specs(1))
    [job] = bench.submitted()
    assert (job.size, jobs[0].handle) == (None, job.id)
    bench.run_out(jobs)


def test_what_is_not_alike_is_not_in_one_array(bench: Bench) -> None:
    engine = bench.another(machines=MACHINES | {"c5.large (spot)": MACHINES["c5.large"]})
    engine.submit([*bench.specs(2), *bench.specs(3, "c5.large (spot)"), *bench.specs(2, wall_time_scale=2.0)])
    assert sorted((job.queue.removeprefix(STACK), job.size) for job in bench.submitted()) == [
        ("-c5-large", 2),
        ("-c5-large", 2),
        ("-c5-large-spot", 3),
    ]


def test_a_map_is_recorded_before_anything_is_submitted(bench: Bench) -> None:
    bench.batch.down = True
    with pytest.raises(HostError):
        bench.engine.submit(bench.specs(3))
    assert len(bench.aws.world.objects.list("maps/aws-batch")) == 1
    assert not bench.submitted()


def test_a_submission_whose_reply_is_lost_is_found_by_its_name(bench: Bench) -> None:
    bench.batch.lost_replies["SubmitJob"] = 1
    jobs = bench.engine.submit(bench.specs(3))
    [array] = bench.submitted()
    assert {job.handle.partition(":")[0] for job in jobs} == {array.id}
    bench.run_out(jobs)
    assert bench.engine.calls.counts["SubmitJob"] == 1  # boto3 does not repeat it by itself


def test_a_new_controller_finds_everything_by_maps_and_names(bench: Bench) -> None:
    specs = bench.specs(5)
    bench.engine.submit(specs[:4])
    bench.engine.submit(specs[4:])
    later = bench.another(slots=10)
    assert set(later.capacity().free.values()) == {5}
    adopted = later.adopt([*(spec.attempt for spec in specs), "s-none.private_test.1"])
    assert {job.attempt for job in adopted} == {spec.attempt for spec in specs}
    bench.engine = later
    bench.run_out(adopted)


def test_room_is_given_in_waves() -> None:
    fleet = Fleet(MACHINES, {"c5.large": 10})
    # 10 machines of two attempts each, and as many waiting; until three eighths are free nothing is submitted.
    assert [fleet.room("c5.large", LIMITS, taken) for taken in (0, 10, 25, 26, 40)] == [40, 30, 15, 0, 0]


# Following


def test_events_that_are_lost_are_made_up_for(bench: Bench) -> None:
    bench.batch.events = None
    bench.run_out(bench.engine.submit(bench.specs(3)))


def test_events_come_twice_and_in_any_order(bench: Bench) -> None:
    [job] = bench.engine.submit(bench.specs(1))
    bench.run_out([job])
    late = {"source": "aws.batch", "detail": {"jobId": job.handle, "status": "RUNNING"}}
    strange = {"source": "aws.batch", "detail": {"jobId": 7, "status": []}}
    boto3.client("sqs").send_message(QueueUrl=bench.aws.events_url, MessageBody=json.dumps(late))
    boto3.client("sqs").send_message(QueueUrl=bench.aws.events_url, MessageBody=json.dumps(late))
    boto3.client("sqs").send_message(QueueUrl=bench.aws.events_url, MessageBody=json.dumps(strange))
    boto3.client("sqs").send_message(QueueUrl=bench.aws.events_url, MessageBody="{")
    assert not bench.engine._following.listen()  # nothing of it is news
    assert bench.states([job]) == [JobState.ENDED]


def test_while_nothing_happens_one_question_is_asked_for_all(bench: Bench) -> None:
    engine = bench.another(slots=20_000, look=60.0, listen=1e9)
    jobs = engine.submit(bench.specs(300))
    before = engine.calls.counts.copy()
    for _ in range(10):
        bench.clock.now += 61
        engine.observe(jobs)
    assert engine.calls.counts["DescribeJobs"] - before["DescribeJobs"] == 10


def test_states_are_looked_up_more_seldom_while_events_tell_it_all(bench: Bench) -> None:
    Scripted.seconds = 1e6
    engine = bench.another(look=60.0, listen=1e9)
    jobs = engine.submit(bench.specs(2))
    bench.go_on(10.0)

    def looks(minutes: int) -> int:
        before = engine.calls.counts["DescribeJobs"]
        for _ in range(minutes):
            bench.clock.now += 60.5
            bench.batch.tick()
            engine.observe(jobs)
        return engine.calls.counts["DescribeJobs"] - before

    looks(10)
    assert looks(40) == 10
    bench.batch.events = None  # and as often as before once something was not told
    running = next(job for job in bench.batch.jobs.values() if job.execution is not None)
    running.execution.terminate()  # type: ignore[union-attr]  # chosen by it
    assert running.index is not None
    for _ in range(5):
        looks(1)
        if engine.observe(jobs)[running.index].state is JobState.ENDED:
            break
    else:
        pytest.fail("its end was not seen")
    assert looks(1) == 1


def test_events_are_deleted_in_tens_and_at_the_end(bench: Bench) -> None:
    def taken_and_not_deleted() -> int:
        asked = {"QueueUrl": bench.aws.events_url, "AttributeNames": ["ApproximateNumberOfMessagesNotVisible"]}
        told = boto3.client("sqs").get_queue_attributes(**asked)["Attributes"]
        return int(told["ApproximateNumberOfMessagesNotVisible"])

    bench.engine = bench.another(slots=100)
    bench.run_out(bench.engine.submit(bench.specs(12)))
    bench.engine._following.listen()
    assert bench.engine.calls.counts["DeleteMessageBatch"] == 1
    assert taken_and_not_deleted() == 3  # of twelve children and their parent
    bench.engine.close()
    assert bench.engine.calls.counts["DeleteMessageBatch"] == 2
    assert taken_and_not_deleted() == 0


def test_silence_ends_nothing_and_is_told(bench: Bench) -> None:
    jobs = bench.engine.submit(bench.specs(2))
    bench.go_on()
    bench.batch.down = True
    for _ in range(8):
        bench.clock.now += 60
        assert JobState.ENDED not in bench.states(jobs)
    [trouble] = bench.engine.troubles()
    assert trouble.startswith("AWS has given no answer for ")
    bench.batch.down = False
    bench.run_out(jobs)
    assert not bench.engine.troubles()


class _Front(http.server.BaseHTTPRequestHandler):
    """What stands before the service, and speaks for itself."""

    def do_POST(self) -> None:
        self.send_response(502)
        self.end_headers()
        self.wfile.write(b"<!doctype html>\n<title>Bad gateway</title>")

    def log_message(self, *_: object) -> None:
        pass


def test_an_answer_that_is_not_the_service_s_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with http.server.HTTPServer(("127.0.0.1", 0), _Front) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{front.server_port}")
        with pytest.raises(UnansweredError, match=r"did not answer DescribeInstances: [^\n]*\.$"):
            BatchCalls(REGION).machines("referee", STACK)
        choice = AwsChoice(stack=STACK, region=REGION)
        with pytest.raises(HostError, match="could not be asked to ask for the stack"):
            Account(choice).state()
        front.shutdown()


def test_a_lost_machine_is_named_by_its_claim(bench: Bench) -> None:
    [spec] = bench.specs(1)
    [job] = bench.engine.submit([spec])
    bench.go_on()
    [host] = bench.batch.living_hosts()
    claim(bench.aws.world.objects, spec.attempt, job=job.handle, node=host.id, boot_id="b")
    bench.batch.lose(host)
    bench.run_out([job])
    [seen] = bench.engine.observe([job])
    assert (seen.node, seen.lost_as) == (host.id, Verdict.NODE_LOST)
    assert "terminated" in seen.reason
    assert host.id in bench.engine.nodes()


def test_what_is_to_run_elsewhere_has_its_machine_thrown_away_unless_others_work_there(bench: Bench) -> None:
    first, second = bench.specs(2)
    jobs = bench.engine.submit([first, second])
    bench.go_on()
    [host] = bench.batch.living_hosts()
    for spec in (first, second):
        claim(bench.aws.world.objects, spec.attempt, job="j", node=host.id, boot_id="b")
    bench.states(jobs)
    bench.clock.now += 1
    bench.states(jobs)
    bench.engine.submit(bench.specs(1, avoid_nodes=(host.id,)))
    assert host.gone is None
    bench.run_out(jobs)
    bench.engine.submit(bench.specs(1, avoid_nodes=(host.id,)))
    assert host.gone is not None


# Never stuck


def test_what_no_machine_can_run_is_taken_back_with_reason_and_mend(bench: Bench) -> None:
    huge = {"c5.large": MACHINES["c5.large"].model_copy(update={"cpus": 8.0})}
    bench.engine = bench.another(machines=huge)
    jobs = bench.engine.submit(bench.specs(2, limits=LIMITS.model_copy(update={"cpus": 4.0})))
    bench.run_out(jobs)
    seen = bench.engine.observe(jobs)
    assert {each.lost_as for each in seen} == {Verdict.UNROUTABLE}
    assert "JOB_RESOURCE_REQUIREMENT" in seen[0].reason
    assert bench.engine.capacity().free == {"c5.large": 0}
    [trouble] = bench.engine.troubles()
    assert ".." not in trouble
    assert trouble.endswith("Lower the challenge's limits, or correct the machine type's memory and the stack.")
    bench.go_on()
    assert {job.status for job in bench.batch.jobs.values()} == {"FAILED"}


@pytest.mark.parametrize(
    ("reason", "lost_as"),
    [
        ("CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY", Verdict.INTERRUPTED),
        ("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT", Verdict.INTERRUPTED),
        ("Host EC2 (instance i-0) terminated.", Verdict.NODE_LOST),
        ("", Verdict.NODE_LOST),
    ],
)
def test_what_batch_cancelled_while_no_controller_looked_is_no_lost_node(
    bench: Bench, reason: str, lost_as: Verdict
) -> None:
    """The queue's own limits (`cloud.compute.STUCK`) end what waits in vain; it began nowhere."""
    assert bench.engine._jams.lost_as(Child("ended", reason)) is lost_as


def test_what_waits_too_long_is_taken_back_and_another_type_stands_in(bench: Bench) -> None:
    both = MACHINES | {"c5.large (spot)": MACHINES["c5.large"]}
    bench.engine = bench.another(machines=both, longest_wait=600.0, blocked=900.0)
    bench.batch.without_capacity = {f"{STACK}-c5-large-spot"}
    jobs = bench.engine.submit(bench.specs(2, "c5.large (spot)"))
    bench.run_out(jobs, 1000)
    seen = bench.engine.observe(jobs)
    assert {(each.node, each.lost_as) for each in seen} == {(None, Verdict.INTERRUPTED)}
    assert "INSUFFICIENT_INSTANCE_CAPACITY" in seen[0].reason
    assert set(bench.engine.machines()) == {"c5.large"}
    bench.clock.now += 1000
    assert set(bench.engine.machines()) == set(both)
    assert not bench.engine.troubles()


def test_what_waits_behind_work_that_goes_on_is_left_alone(bench: Bench) -> None:
    bench.engine = bench.another(longest_wait=25.0)
    jobs = [job for _ in range(3) for job in bench.engine.submit(bench.specs(6))]
    bench.run_out(jobs)
    assert {job.status for job in bench.batch.jobs.values()} == {"SUCCEEDED"}


# Machines


def test_a_job_never_asks_for_more_than_an_instance_registers() -> None:
    fleet = Fleet({"g4dn.xlarge": MachineType(cpus=4, memory=16 * 2**30, gpus=1, gpu_memory=16 * 2**30)})
    offered = fleet.offered(())["g4dn.xlarge"]
    fits = LIMITS.model_copy(update={"memory": offered.memory})
    assert fleet.needs("g4dn.xlarge", fits, 1) == {
        "VCPU": 1,
        "MEMORY": registered_bytes(fleet.machines["g4dn.xlarge"]) // 2**20,
        "GPU": 1,
    }
    assert fleet.needs("g4dn.xlarge", fits, 1)["MEMORY"] < 15_500  # what a g4dn.xlarge is known to register, about
    with pytest.raises(ConfigurationError, match="gives 14"):
        fleet.needs("g4dn.xlarge", LIMITS.model_copy(update={"memory": 16 * 2**30}), 1)


def test_alone_means_the_whole_machine() -> None:
    fleet = Fleet(MACHINES, {"c5.large": 3}, alone=True)
    assert fleet.needs("c5.large", LIMITS, 0)["VCPU"] == 2
    assert fleet.room("c5.large", LIMITS, 0) == 6


def test_the_fleet_follows_counts_quotas_and_markets(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "challenge.toml").write_text(
        """
        name = "c"
        [phases.public]
        data = "data"
        visibility = "public"
        [quotas]
        g = 64
        [machines."g4dn.xlarge"]
        cpus = 4
        memory = "16 GiB"
        price = "0.526"
        spot_price = "0.158"
        quota_pool = "g"
        [machines."c5.large"]
        cpus = 2
        memory = "4 GiB"
        count = 3
        """
    )
    fleet = fleet_of(load_challenge(tmp_path), AwsChoice(stack="s"))
    assert fleet.ceilings == {"g4dn.xlarge": 16, "g4dn.xlarge (spot)": 16, "c5.large": 3}
    assert fleet.machines["g4dn.xlarge (spot)"].price == Decimal("0.158")
    assert fleet.queue("s", "g4dn.xlarge (spot)") == "s-g4dn-xlarge-spot"
    assert fleet.of_queue("s", "s-g4dn-xlarge-spot") == "g4dn.xlarge (spot)"


def test_machines_are_noted_from_launch_to_end(bench: Bench) -> None:
    bench.run_out(bench.engine.submit(bench.specs(2)))
    objects = bench.aws.world.objects
    [life] = noted_lives(objects, "aws-batch")
    assert (life.machine_type, life.gone) == ("c5.large", False)
    assert life.node == bench.batch.hosts[0].id
    bench.go_on(10.0)
    bench.engine.close()
    [life] = noted_lives(objects, "aws-batch")
    assert life.gone
    ended = life.seen_at
    bench.another().close()
    [life] = noted_lives(objects, "aws-batch")
    assert life.seen_at == ended
    assert life.launched_at < ended


def test_a_controller_gives_signs_of_life_and_is_missed_only_if_it_did_not_end_in_order(bench: Bench) -> None:
    metrics = boto3.client("cloudwatch")
    metrics.put_metric_alarm(
        AlarmName="a", ActionsEnabled=False, MetricName="Heartbeat", Namespace="Referee", Period=900, Statistic="Sum",
        EvaluationPeriods=1, Threshold=1, ComparisonOperator="LessThanThreshold",
    )  # fmt: skip

    heartbeat = Heartbeat(bench.engine.calls, STACK, "a")
    for now in (0.0, 100.0, 299.0, 301.0):
        heartbeat.beat(now)
    assert bench.engine.calls.counts["PutMetricData"] == 2
    found = metrics.list_metrics(Namespace="Referee")["Metrics"]
    assert {each["MetricName"]: each["Dimensions"][0]["Value"] for each in found} == {"Heartbeat": STACK}
    heartbeat.end()
    assert bench.engine.calls.counts["EnableAlarmActions"] == bench.engine.calls.counts["DisableAlarmActions"] == 1


def test_an_alarm_that_could_not_be_switched_on_is_switched_on_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, watched = bench.engine.calls, list[bool]()
    monkeypatch.setattr(calls, "watch_heartbeat", lambda _alarm, *, on: watched.append(on))
    monkeypatch.setattr(calls, "heartbeat", silent)
    heartbeat = Heartbeat(calls, STACK, "a")
    heartbeat.beat(0.0)
    heartbeat.end()
    assert watched == []
    monkeypatch.setattr(calls, "heartbeat", lambda _stack: None)
    heartbeat.beat(301.0)
    heartbeat.beat(602.0)
    heartbeat.end()
    assert watched == [True, False]


def silent(_stack: str) -> None:
    raise HostError("AWS did not answer.", hint="Wait.")


# The child


def job_environment(objects: ObjectStore, spec: AttemptSpec, **more: str) -> dict[str, str]:
    wave = record_wave(objects, "aws-batch", [spec])
    return {"AWS_BATCH_JOB_ID": "j", "REFEREE_WAVE": wave.wave, "REFEREE_OBJECTS": objects.location, **more}


def test_gpus_are_given_by_uuid_and_never_by_index(bench: Bench, tmp_path: Path) -> None:
    objects = bench.aws.world.objects
    [spec] = bench.specs(1, gpus=1)
    good = job_environment(objects, spec, NVIDIA_VISIBLE_DEVICES="GPU-1")
    assert child.worker_words(good, tmp_path, "i-1")[0][-2:] == ["--gpu", "GPU-1"]
    for named in ("0", "all", "", "void", "GPU-1,GPU-2"):
        with pytest.raises(HostError):
            child.worker_words(job_environment(objects, spec, NVIDIA_VISIBLE_DEVICES=named), tmp_path, "i-1")


def test_a_child_without_a_job_says_so(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1/")
    monkeypatch.delenv("AWS_BATCH_JOB_ID", raising=False)
    assert child.main(["/nowhere"]) == child.NO_WORKER
    assert "AWS_BATCH_JOB_ID" in capfd.readouterr().err


def test_a_machine_tells_its_name_and_its_end_to_those_with_a_token(bench: Bench) -> None:
    bench.engine.submit(bench.specs(1))
    bench.go_on()
    [host] = bench.batch.living_hosts()
    metadata = child.Metadata(f"{bench.batch.url}/hosts/{host.id}/")
    assert (metadata.instance(), metadata.interruption()) == (host.id, None)
    bench.batch.reclaim(host)
    assert metadata.interruption() is not None


# The machine's own memory


def test_two_host_faults_in_a_row_of_two_evaluations_end_a_machine(tmp_path: Path) -> None:
    def leaving(*endings: tuple[str, Verdict]) -> bool:
        machine = Machine(tmp_path / str(len(list(tmp_path.iterdir()))))
        machine.folder.mkdir()
        for evaluation, verdict in endings:
            machine.note(evaluation, verdict)
        return bool(machine.leaving)

    lost, fine = Verdict.NODE_LOST, Verdict.OK
    assert leaving(("a", lost), ("b", lost))
    assert leaving(("a", fine), ("a", lost), ("b", lost))
    assert not leaving(("a", lost), ("a", lost))
    assert not leaving(("a", lost), ("b", fine), ("c", lost))
    assert not leaving(("a", lost))


def test_a_machine_is_switched_off_when_its_last_worker_has_ended_and_begins_nothing_more(tmp_path: Path) -> None:
    looked: list[float] = []
    lock = take_lock(tmp_path, "s-1.private_test.1")

    def pause(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 3:
            assert not machine.power.exists()
            os.close(lock)

    machine = Machine(tmp_path, tmp_path / "power", pause)
    machine.will_leave("Why.")
    machine.leave()
    assert machine.power.read_text() == "o"
    assert len(looked) > 3
    assert Machine(tmp_path).leaving == "Why."


def test_a_machine_that_cannot_be_switched_off_begins_nothing_all_the_same(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    [spec] = bench.specs(1)
    for name, value in job_environment(bench.aws.world.objects, spec).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1/")
    monkeypatch.setenv("REFEREE_POWER", str(tmp_path / "none" / "power"))
    monkeypatch.setattr(child, "_watch", lambda *_: pytest.fail("something was begun"))
    monkeypatch.setattr(Machine, "leave", lambda _: None)
    Machine(tmp_path).will_leave("Why.")
    assert child.main([str(tmp_path)]) == child.NO_WORKER
    assert "Why." in capfd.readouterr().err


# Nobody spends for ever


def test_without_a_controller_a_wave_ends_by_itself_and_no_machine_stays(bench: Bench) -> None:
    Scripted.seconds = 1e9
    bench.engine.submit(bench.specs(3))  # and the controller is gone
    for _ in range(5):
        bench.go_on(3600.0)
        bench.go_on(60.0)
    assert {job.status for job in bench.batch.jobs.values()} == {"FAILED"}
    assert not bench.batch.living_hosts()
    started = [job.started for job in bench.batch.jobs.values() if job.parent is not None]
    assert len(started) == 3  # nothing was tried again
    longest = max(host.gone - host.launched for host in bench.batch.hosts if host.gone is not None)
    limit = LIMITS.wall_time.total_seconds() + 3600
    assert longest <= 2 * limit + 3600  # of three jobs two are side by side; an hour is the step of this test's time


def test_a_controller_that_leads_is_missed_as_soon_as_it_is_silent(bench: Bench) -> None:
    engine = bench.another(alarm="a", listen=60.0, look=300.0)
    boto3.client("cloudwatch").put_metric_alarm(
        AlarmName="a", ActionsEnabled=False, MetricName="Heartbeat", Namespace="Referee", Period=900, Statistic="Sum",
        EvaluationPeriods=1, Threshold=1, ComparisonOperator="LessThanThreshold",
    )  # fmt: skip
    began = bench.clock.now
    while bench.clock.now < began + 3000:
        engine.wait(2.0)
        bench.go_on(28.0)
    assert 9 <= engine.calls.counts["PutMetricData"] <= 11

    def told() -> bool:
        return bool(boto3.client("cloudwatch").describe_alarms(AlarmNames=["a"])["MetricAlarms"][0]["ActionsEnabled"])

    assert told()  # a controller that vanishes leaves it so
    jobs = engine.submit(bench.specs(3))
    engine.close()
    assert told()  # and so does one that fails while jobs are out, which nobody follows now
    while {seen.state for seen in engine.observe(jobs)} != {JobState.ENDED}:
        engine.wait(5.0)
    engine.close()
    assert not told()


def test_when_the_last_job_has_ended_the_fleet_goes_down_to_nothing_and_the_engine_says_so(bench: Bench) -> None:
    bench.run_out(bench.engine.submit(bench.specs(2)))
    assert bench.engine.up() == [host.id for host in bench.batch.living_hosts()] != []
    bench.go_on(10.0)
    assert bench.engine.up() == []
    assert {life.node for life in bench.engine.lives()} == {host.id for host in bench.batch.hosts}
    up = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    assert boto3.client("ec2").describe_instances(Filters=[up])["Reservations"] == []
    bench.batch.hosts.clear()  # AWS tells of a machine that has ended for an hour only
    assert bench.engine.up() == []
