"""A STAND-IN for AWS Batch over HTTP on loopback, for boto3 to talk to: no account, no cloud, no containers.

It answers the operations that Referee uses as AWS documents them: requests are checked against boto3's own description
of the service, the documented limits are enforced, jobs step through the real states, and each job's command runs as a
process. On demand it loses replies, answers nothing, throttles, reclaims spot machines with notice, loses machines, and
leaves impossible jobs RUNNABLE with the reason. What it cannot show: kernels, GPUs, IAM, networks, prices and times of
the real service. Everything but Batch (and four calls of EC2) goes to moto's server, which is another stand-in.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import botocore.session
from botocore.validate import ParamValidator
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from batch_stand_in_hosts import Execution, Host, Kind, ProcessExecution, Start

ACCOUNT, REGION = "123456789012", "us-east-1"
LIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")
ENDED = ("SUCCEEDED", "FAILED")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SUBMISSIONS_PER_SECOND = 50  # service quotas of AWS Batch
_ARRAY_SIZES = range(2, 10_001)
_MOST_DESCRIBED = 100
_PAYLOAD_BYTES = 30 << 10
_IMPOSSIBLE = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is higher than that "
    "can be met by the CE(s) attached to the job queue."
)
_STATE_FILTER = "instance-state-name"
_NO_CAPACITY = (
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - The job queue is blocked: EC2 has no capacity for the instance type."
)


class Refused(Exception):  # noqa: N818 - an answer of the service
    def __init__(self, message: str, kind: str = "ClientException", status: int = 400) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


@dataclass
class Job:
    """A job, an array's parent (`size`), or its child (`parent`, `index`). Times in seconds of the stand-in's clock."""

    id: str
    request: dict[str, Any]
    queue: str
    created: float
    tries: int
    parent: str | None = None
    index: int | None = None
    size: int | None = None
    status: str = "SUBMITTED"
    reason: str = ""
    started: float | None = None
    stopped: float | None = None
    execution: Execution | None = None
    host: Host | None = None
    exit_code: int | None = None
    ending: str = ""
    kill_at: float | None = None
    cancelled: bool = False
    terminated: bool = False
    attempts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.request["jobName"])


class BatchStandIn:
    """The service and its machines.

    Args:
        folder: where machines have their disks.
        queues: what the machines of each queue are.
        start: how a job's command is executed.
        clock: seconds; with one of the caller's own, the caller calls `tick`.
        notice_seconds, stop_seconds, boot_seconds, idle_seconds: AWS's two minutes before a spot machine is taken, its
            30 s from SIGTERM to SIGKILL, a machine's start, and how long an idle one is kept: all scaled.
        furnish: what a fresh machine's disk holds.

    Attributes:
        events: where state changes are told, as EventBridge would hand them to a queue.
    """

    def __init__(
        self,
        folder: Path,
        queues: dict[str, Kind],
        *,
        start: Start = ProcessExecution,
        clock: Callable[[], float] | None = None,
        notice_seconds: float = 5.0,
        stop_seconds: float = 10.0,
        boot_seconds: float = 0.0,
        idle_seconds: float = 2.0,
        furnish: Callable[[Host], None] = lambda _host: None,
    ) -> None:
        self.queues, self.hosts, self.calls = queues, list[Host](), Counter[str]()
        self.jobs: dict[str, Job] = {}
        self._live: dict[str, Job] = {}
        self._full: set[tuple[str, tuple[int, ...]]] = set()  # queues that had no room for such a job in this tick
        self.definitions: dict[str, dict[str, Any]] = {}
        self.events: Callable[[list[dict[str, Any]]], None] | None = None
        self.down, self.lost_replies, self._furnish = False, Counter[str](), furnish
        self.without_capacity: set[str] = set()
        self.lock = threading.RLock()
        self.url = ""
        self._folder, self._start, self._clock = folder, start, clock or time.monotonic
        self._notice, self._stop, self._boot, self._idle = notice_seconds, stop_seconds, boot_seconds, idle_seconds
        self._children: dict[str, list[Job]] = defaultdict(list)
        self._submitted_at: list[float] = []
        self._untold: list[dict[str, Any]] = []
        self._model = botocore.session.get_session().get_service_model("batch")
        self._operations = {
            self._model.operation_model(name).http["requestUri"]: name for name in self._model.operation_names
        }

    # What a test can do to it

    def tick(self) -> None:
        """Let every job and machine go one step further."""
        with self.lock:
            now = self._clock()
            self._full.clear()
            for job in [job for job in self._live.values() if job.size is None]:
                if job.status in LIVE:  # losing a machine on the way ends others
                    self._step(job, now)
            for host in self.living_hosts():
                self._age(host, now)
            for parent in [job for job in self._live.values() if job.size is not None]:
                self._sum_up(parent, now)
            told, self._untold = self._untold, []
        if told and self.events is not None:
            self.events(told)

    def reclaim(self, host: Host) -> None:
        """EC2 wants a spot machine back: it says so now, and takes it after the notice."""
        with self.lock:
            host.reclaimed_at, host.draining = self._clock() + self._notice, True

    def lose(self, host: Host) -> None:
        """The machine vanishes with everything on it."""
        with self.lock:
            self._take_away(host, self._clock())

    def living_hosts(self) -> list[Host]:
        """Machines that are up, and paid for."""
        return [host for host in self.hosts if host.gone is None]

    def age(self, host: Host) -> float:
        """Seconds since it was asked for."""
        return self._clock() - host.launched

    def children(self, job: str) -> list[Job]:
        """The children of an array."""
        return self._children[job]

    # Jobs and machines

    def _step(self, job: Job, now: float) -> None:
        if job.status in {"SUBMITTED", "PENDING"}:
            self._turn(job, "PENDING" if job.status == "SUBMITTED" else "RUNNABLE")
        elif job.status == "RUNNABLE":
            self._place(job, now)
        elif job.status == "STARTING" and job.host is not None and job.host.ready <= now:
            job.started = now
            job.execution = self._start(job.host, self._command(job), self._environment(job))
            self._turn(job, "RUNNING")
        elif job.status == "RUNNING":
            self._follow(job, now)

    def _follow(self, job: Job, now: float) -> None:
        assert job.execution is not None
        assert job.started is not None
        code = job.execution.poll()
        limit = job.request.get("timeout", {}).get("attemptDurationSeconds")
        if code is not None:
            self._end(job, now, code, job.ending or ("" if code == 0 else "Essential container in task exited"))
        elif job.kill_at is not None and now >= job.kill_at:
            job.execution.kill()
            self._end(job, now, 137, job.ending)
        elif limit is not None and now >= job.started + limit and job.kill_at is None:
            job.ending, job.kill_at = "Job attempt duration exceeded timeout", now + self._stop
            job.execution.terminate()

    def _place(self, job: Job, now: float) -> None:
        needs, kind = needs_of(job.request), self.queues[job.queue]
        if (job.queue, tuple(needs.values())) in self._full:
            return
        too_much = needs["VCPU"] > kind.vcpus or needs["MEMORY"] > kind.registered_mib or needs["GPU"] > kind.gpus
        if too_much:
            job.reason = _IMPOSSIBLE
            return
        up = [host for host in self.living_hosts() if host.queue == job.queue]
        host = next((host for host in up if host.takes(needs)), None)
        if host is None and len([host for host in up if not host.draining]) < kind.most:
            if job.queue in self.without_capacity:
                job.reason = _NO_CAPACITY
                return
            host = self._launch(job.queue, now)
        if host is None:
            self._full.add((job.queue, tuple(needs.values())))
            return
        job.reason, job.host, host.idle_since = "", host, None
        job.request["_gpus"] = host.give(job.id, needs)
        self._turn(job, "STARTING")

    def _launch(self, queue: str, now: float) -> Host:
        host = Host(queue, self.queues[queue], now, now + self._boot, self._folder)
        host.folder = self._folder / host.id
        host.folder.mkdir(mode=0o700, parents=True)
        self._furnish(host)
        self.hosts.append(host)
        return host

    def _age(self, host: Host, now: float) -> None:
        if host.gone is not None:
            return
        if (host.reclaimed_at is not None and now >= host.reclaimed_at) or host.power.exists():
            self._take_away(host, now)
        elif host.jobs:
            host.idle_since = None
        elif host.idle_since is None:
            host.idle_since = now
        elif now - host.idle_since >= self._idle:
            host.gone = now

    def _take_away(self, host: Host, now: float) -> None:
        host.gone = now
        for name in list(host.jobs):
            job = self.jobs[name]
            if job.execution is not None:
                job.execution.kill()
            self._end(job, now, None, f"Host EC2 (instance {host.id}) terminated.")

    def _end(self, job: Job, now: float, code: int | None, reason: str) -> None:
        self._full.clear()
        if job.host is not None:
            job.host.take_back(job.id)
            attempt = {"container": {"containerInstanceArn": job.host.container_instance}, "statusReason": reason}
            job.attempts.append(attempt | {"startedAt": _ms(job.started or now), "stoppedAt": _ms(now)})
        job.exit_code, job.reason, job.stopped, job.execution, job.kill_at = code, reason, now, None, None
        wanted_to_end = job.cancelled or job.terminated or "timeout" in reason
        if code != 0 and len(job.attempts) < job.tries and not wanted_to_end:
            job.host, job.started = None, None
            self._turn(job, "RUNNABLE")
        else:
            self._turn(job, "SUCCEEDED" if code == 0 else "FAILED")

    def _sum_up(self, parent: Job, now: float) -> None:
        states = {child.status for child in self._children[parent.id]}
        if parent.status == "SUBMITTED":
            parent.status = "PENDING"
        if states <= set(ENDED):
            parent.stopped = now
            self._turn(parent, "FAILED" if "FAILED" in states else "SUCCEEDED")

    def _turn(self, job: Job, status: str) -> None:
        job.status = status
        if status in ENDED:
            self._live.pop(job.id, None)
        if self.events is not None:
            event = {"detail-type": "Batch Job State Change", "source": "aws.batch", "detail": self._detail(job)}
            self._untold.append(event)

    def _command(self, job: Job) -> list[str]:
        """The command; where it names a path that a volume of the machine is mounted at, the path on the machine."""
        properties = job.request["_properties"]
        command = job.request.get("containerOverrides", {}).get("command") or properties["command"]
        places = [mount["containerPath"] for mount in properties.get("mountPoints", [])]
        assert job.host is not None
        return [str(job.host.folder) if word in places else word for word in command]

    def _environment(self, job: Job) -> dict[str, str]:
        given = job.request["_properties"].get("environment", [])
        given = given + job.request.get("containerOverrides", {}).get("environment", [])
        environment = {each["name"]: each["value"] for each in given}
        assert job.host is not None
        environment |= {
            "AWS_BATCH_JOB_ID": job.id,
            "AWS_BATCH_JQ_NAME": job.queue,
            "AWS_BATCH_CE_NAME": job.queue,
            "AWS_BATCH_JOB_ATTEMPT": str(len(job.attempts) + 1),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self.url}/hosts/{job.host.id}/",
            "AWS_ENDPOINT_URL": self.url,
            "REFEREE_POWER": str(job.host.power),
            "AWS_ACCESS_KEY_ID": "stand-in",
            "AWS_SECRET_ACCESS_KEY": "stand-in",
            "AWS_DEFAULT_REGION": REGION,
        }
        if job.index is not None:
            environment["AWS_BATCH_JOB_ARRAY_INDEX"] = str(job.index)
        if job.request["_gpus"]:
            environment["NVIDIA_VISIBLE_DEVICES"] = ",".join(job.request["_gpus"])
        return environment

    # The API

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any], str]:
        """Status, answer, and the kind of error if it is one."""
        operation = self._operations.get(path)
        with self.lock:
            self.calls[operation or path] += 1
            try:
                if self.down:
                    return 503, {"message": "Service unavailable"}, "ServerException"
                return 200, self._carry_out(operation, body), ""
            except Refused as refusal:
                return refusal.status, {"message": str(refusal)}, refusal.kind

    def _carry_out(self, operation: str | None, body: bytes) -> dict[str, Any]:
        if operation is None or not hasattr(self, f"_do_{operation}"):
            raise Refused(f"The stand-in has no {operation}.")
        request = json.loads(body or b"{}")
        shape = self._model.operation_model(operation).input_shape
        problems = ParamValidator().validate(request, shape)
        unknown = set(request) - set(shape.members)
        if problems.has_errors() or unknown:
            raise Refused(f"{problems.generate_report()} {sorted(unknown)}")
        answer: dict[str, Any] = getattr(self, f"_do_{operation}")(request)
        return answer

    def _do_RegisterJobDefinition(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        name = request["jobDefinitionName"]
        revision = self.definitions[name]["revision"] + 1 if name in self.definitions else 1
        self.definitions[name] = request | {"revision": revision}
        arn = f"arn:aws:batch:{REGION}:{ACCOUNT}:job-definition/{name}:{revision}"
        return {"jobDefinitionName": name, "jobDefinitionArn": arn, "revision": revision}

    def _do_SubmitJob(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        now = self._clock()
        self._submitted_at = [at for at in self._submitted_at if at > now - 1.0]
        if len(self._submitted_at) >= _SUBMISSIONS_PER_SECOND:
            raise Refused("Too Many Requests", "TooManyRequestsException", 429)
        self._submitted_at.append(now)
        size = request.get("arrayProperties", {}).get("size")
        definition = self.definitions.get(request["jobDefinition"].rpartition("/")[2].partition(":")[0])
        queue = request["jobQueue"].rpartition("/")[2]
        tries = (request.get("retryStrategy") or (definition or {}).get("retryStrategy") or {}).get("attempts", 1)
        wrong = [
            (not _NAME.fullmatch(request["jobName"]), "jobName is not a valid name"),
            (queue not in self.queues, f"JobQueue {queue} does not exist"),
            (definition is None, f"JobDefinition {request['jobDefinition']} does not exist"),
            (size is not None and size not in _ARRAY_SIZES, "array size must be between 2 and 10000"),
            (not 1 <= tries <= 10, "attempts must be between 1 and 10"),
            (request.get("timeout", {}).get("attemptDurationSeconds", 60) < 60, "the timeout is at least 60 seconds"),
            (len(json.dumps(request)) > _PAYLOAD_BYTES, "the request is larger than 30 KiB"),
            (len(request.get("tags", {})) > 50, "at most 50 tags"),
        ]
        for is_wrong, message in wrong:
            if is_wrong:
                raise Refused(message)
        assert definition is not None
        request = request | {"_properties": definition["containerProperties"], "_gpus": []}
        job = Job(secrets.token_hex(16), request, queue, now, tries, size=size)
        self.jobs[job.id] = self._live[job.id] = job
        for index in range(size or 0):
            child = Job(f"{job.id}:{index}", dict(request), queue, now, tries, parent=job.id, index=index)
            self.jobs[child.id] = self._live[child.id] = child
            self._children[job.id].append(child)
        return {"jobArn": _arn(job.id), "jobName": job.name, "jobId": job.id}

    def _do_DescribeJobs(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        if len(request["jobs"]) > _MOST_DESCRIBED:
            raise Refused("Member must have length less than or equal to 100")
        wanted = [name.rpartition("job/")[2] for name in request["jobs"]]
        return {"jobs": [self._detail(self.jobs[name]) for name in wanted if name in self.jobs]}

    def _do_ListJobs(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        status, filters = request.get("jobStatus"), request.get("filters")
        if request.get("arrayJobId"):
            found = [job for job in self._children[request["arrayJobId"]] if job.status == (status or "RUNNING")]
        elif "jobQueue" not in request:
            raise Refused("jobQueue or arrayJobId is required")
        else:
            queue = request["jobQueue"].rpartition("/")[2]
            found = [job for job in self.jobs.values() if job.parent is None and job.queue == queue]
            found = [job for job in found if _matches(job, filters[0]) if filters] if filters else [
                job for job in found if job.status == (status or "RUNNING")
            ]  # fmt: skip
        most = min(request.get("maxResults", 1000), 100 if filters else 1000)
        begin = int(request.get("nextToken") or 0)
        page = found[begin : begin + most]
        token = {"nextToken": str(begin + most)} if begin + most < len(found) else {}
        return {"jobSummaryList": [self._summary(job) for job in page], **token}

    def _do_CancelJob(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        for job in self._named(request["jobId"]):
            if job.status in {"SUBMITTED", "PENDING", "RUNNABLE"}:
                job.cancelled = True
                self._end(job, self._clock(), None, request["reason"])
        return {}

    def _do_TerminateJob(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        for job in self._named(request["jobId"]):
            if job.status in {"STARTING", "RUNNING"} and job.execution is not None:
                job.terminated, job.ending = True, request["reason"]
                job.kill_at = job.kill_at or self._clock() + self._stop
                job.execution.terminate()
            elif job.status in LIVE:
                job.terminated = True
                self._end(job, self._clock(), None, request["reason"])
        return {}

    def _do_DescribeJobQueues(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        found = []
        for name in self.queues:
            arn = f"arn:aws:batch:{REGION}:{ACCOUNT}:job-queue/{name}"
            order = [{"order": 1, "computeEnvironment": arn.replace("job-queue", "compute-environment")}]
            facts = {"jobQueueName": name, "jobQueueArn": arn, "state": "ENABLED", "status": "VALID", "priority": 1}
            found.append(facts | {"computeEnvironmentOrder": order})
        return {"jobQueues": found}

    def _do_DescribeComputeEnvironments(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        found = []
        for name, kind in self.queues.items():
            up = sum(host.queue == name for host in self.living_hosts())
            arn = f"arn:aws:batch:{REGION}:{ACCOUNT}:compute-environment/{name}"
            facts = {"computeEnvironmentName": name, "computeEnvironmentArn": arn, "state": "ENABLED"}
            resources = {"type": "SPOT" if kind.spot else "EC2", "subnets": ["subnet-1"], "minvCpus": 0}
            resources |= {"desiredvCpus": up * kind.vcpus, "maxvCpus": kind.most * kind.vcpus}
            found.append(facts | {"status": "VALID", "computeResources": resources})
        return {"computeEnvironments": found}

    def _named(self, name: str) -> list[Job]:
        job = self.jobs.get(name.rpartition("job/")[2])
        if job is None:
            raise Refused(f"Job {name} does not exist")
        return self._children[job.id] if job.size is not None else [job]

    def _summary(self, job: Job) -> dict[str, Any]:
        facts: dict[str, Any] = {"jobArn": _arn(job.id), "jobId": job.id, "jobName": job.name, "status": job.status}
        facts |= {"createdAt": _ms(job.created), "statusReason": job.reason}
        if job.started is not None:
            facts["startedAt"] = _ms(job.started)
        if job.stopped is not None:
            facts["stoppedAt"] = _ms(job.stopped)
        if job.size is not None or job.index is not None:
            facts["arrayProperties"] = {"size": job.size} if job.size is not None else {"index": job.index}
        return facts

    def _detail(self, job: Job) -> dict[str, Any]:
        facts = self._summary(job) | {
            "jobQueue": f"arn:aws:batch:{REGION}:{ACCOUNT}:job-queue/{job.queue}",
            "jobDefinition": job.request["jobDefinition"],
            "attempts": job.attempts,
            "retryStrategy": {"attempts": job.tries, "evaluateOnExit": []},
            "tags": job.request.get("tags", {}),
            "isCancelled": job.cancelled,
            "isTerminated": job.terminated,
        }
        facts["container"] = {"containerInstanceArn": job.host.container_instance} if job.host else {}
        if job.exit_code is not None:
            facts["container"]["exitCode"] = job.exit_code
        if job.size is not None:
            summary = Counter(child.status for child in self._children[job.id])
            states = (*LIVE, *ENDED)
            facts["arrayProperties"] = {"size": job.size, "statusSummary": {state: summary[state] for state in states}}
        return facts


def needs_of(request: dict[str, Any]) -> dict[str, int]:
    """What a job asks for: the override, else the definition's."""
    both = [request["_properties"], request.get("containerOverrides", {})]
    given = {each["type"]: each["value"] for part in both for each in part.get("resourceRequirements", [])}
    return {kind: math.ceil(float(given.get(kind, 0))) for kind in ("VCPU", "MEMORY", "GPU")}


def _matches(job: Job, wanted: dict[str, Any]) -> bool:
    if wanted["name"] != "JOB_NAME":
        raise Refused("The stand-in filters by JOB_NAME alone")
    for value in map(str.lower, wanted["values"]):
        name = job.name.lower()
        if name.startswith(value[:-1]) if value.endswith("*") else name == value:
            return True
    return False


def _arn(job: str) -> str:
    return f"arn:aws:batch:{REGION}:{ACCOUNT}:job/{job}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


class _Gate:
    """The WSGI application: Batch, the machines' metadata and their termination here; everything else to moto."""

    def __init__(self, batch: BatchStandIn) -> None:
        self._batch = batch
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._turn = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path, scope = environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION", "")
        if path.startswith("/hosts/"):
            return self._metadata(path, environ, start_response)
        if "/s3/aws4_request" in scope:
            with self._turn:  # moto looks whether an object is there, and then writes it; the real service does both
                return list(self._moto(environ, start_response))
        if "/batch/aws4_request" not in scope and "/ec2/aws4_request" not in scope:
            return self._moto(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if "/ec2/aws4_request" in scope:
            return self._ec2(body, environ, start_response)
        status, answer, error = self._batch.answer(path, body)
        operation = self._batch._operations.get(path, "")
        if self._batch.lost_replies[operation] > 0:
            self._batch.lost_replies[operation] -= 1
            environ["werkzeug.socket"].shutdown(2)
            return [b""]
        headers = [("Content-Type", "application/json")]
        start_response(f"{status} .", [*headers, ("x-amzn-ErrorType", error)] if error else headers)
        return [json.dumps(answer).encode()]

    def _metadata(self, path: str, environ: dict[str, Any], start_response: Any) -> Any:
        """IMDSv2, as the machine's own network would show it."""
        name, _, what = path.removeprefix("/hosts/").partition("/")
        host = next((host for host in self._batch.hosts if host.id == name), None)
        answer: str | None = None
        if host is not None and what == "latest/api/token" and environ["REQUEST_METHOD"] == "PUT":
            answer = host.token
        elif host is not None and environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN") == host.token:
            if what == "latest/meta-data/instance-id":
                answer = host.id
            elif what == "latest/meta-data/spot/instance-action" and host.reclaimed_at is not None:
                answer = json.dumps({"action": "terminate", "time": "2026-01-01T00:00:00Z"})
        start_response("200 ." if answer is not None else "404 .", [("Content-Type", "text/plain")])
        return [(answer or "").encode()]

    def _instance(self, host: Host) -> str:
        launched = datetime.now(UTC) - timedelta(seconds=self._batch.age(host))
        state = f"<code>{16 if host.gone is None else 48}</code><name>{_state(host)}</name>"
        since = 0.0 if host.gone is None else self._batch._clock() - host.gone
        ended = (datetime.now(UTC) - timedelta(seconds=since)).strftime("%Y-%m-%d %H:%M:%S")
        reason = "" if host.gone is None else f"<reason>User initiated ({ended} GMT)</reason>"
        spot = "<instanceLifecycle>spot</instanceLifecycle>" if host.kind.spot else ""
        return (
            f"<item><instancesSet><item><instanceId>{host.id}</instanceId><instanceState>{state}</instanceState>"
            f"<instanceType>{host.kind.instance_type}</instanceType>{spot}{reason}"
            f"<launchTime>{launched.isoformat()}</launchTime></item></instancesSet></item>"
        )

    def _ec2(self, body: bytes, environ: dict[str, Any], start_response: Any) -> Any:
        form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        if form.get("Action") == "TerminateInstances":
            names = [value for key, value in form.items() if key.startswith("InstanceId.")]
            for host in [host for host in self._batch.living_hosts() if host.id in names]:
                self._batch.lose(host)
            items = "".join(f"<item><instanceId>{name}</instanceId></item>" for name in names)
            xml = f"<TerminateInstancesResponse><instancesSet>{items}</instancesSet></TerminateInstancesResponse>"
        elif form.get("Action") == "DescribeInstances":
            wanted = {value for key, value in form.items() if ".Value." in key and form[_name_of(key)] == _STATE_FILTER}
            hosts = [host for host in self._batch.hosts if not wanted or _state(host) in wanted]
            items = "".join(self._instance(host) for host in hosts)
            xml = f"<DescribeInstancesResponse><reservationSet>{items}</reservationSet></DescribeInstancesResponse>"
        else:
            environ["wsgi.input"] = __import__("io").BytesIO(body)
            return self._moto(environ, start_response)
        start_response("200 .", [("Content-Type", "text/xml")])
        return [xml.encode()]


def _state(host: Host) -> str:
    return "running" if host.gone is None else "terminated"


def _name_of(key: str) -> str:
    """`Filter.1.Value.2` is a value of the filter that `Filter.1.Name` names."""
    return key.partition(".Value.")[0] + ".Name"


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(
    batch: BatchStandIn, *, ticking: bool = True, tick_seconds: float = 0.02, service: str = "stand-in"
) -> Iterator[str]:
    """Serve on loopback for as long as the context lasts; yields the address for `AWS_ENDPOINT_URL`.

    With `service` "moto" nothing but moto answers.
    """
    gate = DomainDispatcherApplication(create_backend_app) if service == "moto" else _Gate(batch)
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=_Quiet)
    batch.url = f"http://127.0.0.1:{server.server_port}"
    over = threading.Event()

    def keep_ticking() -> None:
        # The one thread that starts processes: they die with it (PR_SET_PDEATHSIG is of the thread).
        while not over.wait(tick_seconds):
            batch.tick()

    threads = [threading.Thread(target=server.serve_forever, daemon=True)]
    if ticking:
        threads.append(threading.Thread(target=keep_ticking, daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield batch.url
    finally:
        over.set()
        server.shutdown()
        for host in batch.living_hosts():
            batch.lose(host)
        server.server_close()
        for thread in threads:
            thread.join(10)
