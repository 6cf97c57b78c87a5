"""The operations of AWS Batch (and SQS, EC2) that the engine uses: counted, throttled, and safe to repeat.

Batch has no idempotency for SubmitJob, so boto3 must not repeat it by itself: only a refusal that was certainly not
carried out (429) is tried again here. All else is read-only or safe to repeat, and is retried by boto3's adaptive mode,
which slows down to what the service takes.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

from referee.engines.contract import SilentError
from referee.errors import ConfigurationError, HostError

MOST_DESCRIBED = 100  # DescribeJobs takes no more
_THROTTLED = {"TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded"}
_SUBMISSION_TRIES = 8
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0
MESSAGES = 10  # SQS gives no more in one answer


class UnansweredError(SilentError):
    """AWS did not answer, or refused for now. What was asked may have been done nevertheless."""


class RefusedError(HostError):
    """AWS refused, and will refuse again."""


class BatchCalls:
    """A session with AWS.

    Args:
        region: such as `us-east-1`.
        profile: of the credentials, as `aws configure` names them; by default what boto3 finds.
        pause: sleeps; another one in tests.
        event_seconds: how long an empty queue is waited for. Only with a wait does SQS ask all of its servers.
    """

    def __init__(
        self,
        region: str,
        profile: str | None = None,
        *,
        pause: Callable[[float], None] = time.sleep,
        event_seconds: int = 1,
    ) -> None:
        try:
            import boto3  # noqa: PLC0415 - an extra
            from botocore.config import Config  # noqa: PLC0415 - as above
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "The engine `aws-batch` needs boto3.", hint="Install it: pip install 'referee[aws]'."
            ) from error
        self.counts: Counter[str] = Counter()
        self._pause, self._event_seconds = pause, event_seconds
        self._session = boto3.session.Session(region_name=region, profile_name=profile)
        patience = {"connect_timeout": 10, "read_timeout": 60}
        self._patient = Config(retries={"mode": "adaptive", "total_max_attempts": 5}, **patience)
        self._once = Config(retries={"mode": "standard", "total_max_attempts": 1}, **patience)

    @cached_property
    def _batch(self) -> Any:
        return self._client("batch", self._patient)

    @cached_property
    def _submitting(self) -> Any:
        return self._client("batch", self._once)

    @cached_property
    def _sqs(self) -> Any:
        return self._client("sqs", self._patient)

    @cached_property
    def _ec2(self) -> Any:
        return self._client("ec2", self._patient)

    @cached_property
    def _logs(self) -> Any:
        return self._client("logs", self._patient)

    @cached_property
    def _metrics(self) -> Any:
        return self._client("cloudwatch", self._patient)

    @cached_property
    def _stacks(self) -> Any:
        return self._client("cloudformation", self._patient)

    def _client(self, service: str, config: Any) -> Any:
        # Made when it is needed: the description of a service takes boto3 up to a second to read.
        client = self._session.client(service, config=config)
        # Every request that leaves, so that what is repeated is counted as often as it was sent.
        client.meta.events.register("before-send.*", self._count)
        return client

    def submit(self, request: dict[str, Any]) -> str:
        """SubmitJob; returns the job's id. What was refused because we ask too often is asked again, later each time.

        Raises:
            UnansweredError: there was no answer: the job may have been taken.
            RefusedError: it was not taken.
        """
        for turn in itertools.count():
            try:
                return str(_asked("SubmitJob", lambda: self._submitting.submit_job(**request))["jobId"])
            except ThrottledError:
                if turn + 1 >= _SUBMISSION_TRIES:
                    raise
                longest = min(_FIRST_PAUSE_SECONDS * 2**turn, _LONGEST_PAUSE_SECONDS)
                self._pause(random.uniform(longest / 2, longest))  # noqa: S311 - not a secret
        raise AssertionError  # the loop above does not end by itself

    def describe(self, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """DescribeJobs, a hundred at a time: what Batch still knows of them."""
        for some in _hundreds(ids):
            yield from _asked("DescribeJobs", partial(self._batch.describe_jobs, jobs=some))["jobs"]

    def children(self, parent: str, status: str) -> Iterator[dict[str, Any]]:
        """ListJobs: the children of an array that are in a state."""
        yield from self._pages("ListJobs", arrayJobId=parent, jobStatus=status, maxResults=1000)

    def named(self, queue: str, prefix: str) -> Iterator[dict[str, Any]]:
        """ListJobs: the jobs of a queue whose name begins so, in whatever state, latest first."""
        filters = [{"name": "JOB_NAME", "values": [f"{prefix}*"]}]
        yield from self._pages("ListJobs", jobQueue=queue, filters=filters, maxResults=100)

    def terminate(self, job: str, reason: str) -> None:
        """TerminateJob: end it, whether it has begun or not; of an array all children."""
        _asked("TerminateJob", lambda: self._batch.terminate_job(jobId=job, reason=reason))

    def receive(self, queue_url: str) -> list[dict[str, Any]]:
        """ReceiveMessage: at most ten, each with its `Body` and the `ReceiptHandle` by which it is deleted."""
        request = {"QueueUrl": queue_url, "MaxNumberOfMessages": MESSAGES, "WaitTimeSeconds": self._event_seconds}
        answer = _asked("ReceiveMessage", partial(self._sqs.receive_message, **request))
        return list(answer.get("Messages", []))

    def delete(self, queue_url: str, receipts: Sequence[str]) -> None:
        """DeleteMessageBatch: at most ten messages are not given out again."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        _asked("DeleteMessageBatch", partial(self._sqs.delete_message_batch, QueueUrl=queue_url, Entries=entries))

    def end_machines(self, instances: Sequence[str]) -> None:
        """TerminateInstances: throw the machines away; their compute environment starts others where work waits."""
        _asked("TerminateInstances", lambda: self._ec2.terminate_instances(InstanceIds=list(instances)))

    def machines(self, tag: str, value: str) -> list[dict[str, Any]]:
        """DescribeInstances: machines with the tag, also those that ended within the last hour or so."""
        filters = [{"Name": f"tag:{tag}", "Values": [value]}]
        pages = self._ec2.get_paginator("describe_instances").paginate(Filters=filters)
        groups = _asked("DescribeInstances", lambda: [group for page in pages for group in page["Reservations"]])
        return [each for group in groups for each in group["Instances"]]

    def heartbeat(self, stack: str) -> None:
        """PutMetricData: the controller of this stack is alive."""
        datum = {"MetricName": "Heartbeat", "Dimensions": [{"Name": "Stack", "Value": stack}], "Value": 1.0}
        _asked("PutMetricData", partial(self._metrics.put_metric_data, Namespace="Referee", MetricData=[datum]))

    def watch_heartbeat(self, alarm: str, *, on: bool) -> None:
        """EnableAlarmActions, DisableAlarmActions: whether the alarm tells anybody."""
        change = self._metrics.enable_alarm_actions if on else self._metrics.disable_alarm_actions
        _asked("EnableAlarmActions", partial(change, AlarmNames=[alarm]))

    def log(self, group: str, stream: str) -> str:
        """GetLogEvents: the last lines that a job printed; empty if they cannot be had."""
        try:
            found = _asked("GetLogEvents", partial(self._logs.get_log_events, logGroupName=group, logStreamName=stream))
        except HostError:
            return ""
        return "\n".join(str(each["message"]) for each in found["events"][-100:])

    def outputs(self, stack: str) -> dict[str, str]:
        """DescribeStacks: what the stack says of itself."""
        found = _asked("DescribeStacks", lambda: self._stacks.describe_stacks(StackName=stack))["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in found[0].get("Outputs", [])}

    def _pages(self, name: str, **request: Any) -> Iterator[dict[str, Any]]:
        while True:
            page = _asked(name, lambda: self._batch.list_jobs(**request))
            yield from page["jobSummaryList"]
            if not page.get("nextToken"):
                return
            request["nextToken"] = page["nextToken"]

    def _count(self, event_name: str, **_: object) -> None:
        self.counts[event_name.rpartition(".")[2]] += 1


class ThrottledError(UnansweredError):
    """Refused because too much was asked in too short a time: it was certainly not done."""


def _asked(what: str, call: Callable[[], Any]) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra
    from botocore.parsers import ResponseParserError  # noqa: PLC0415 - an extra

    try:
        return call()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        words = f"AWS refused {what}: {str(error.response.get('Error', {}).get('Message', code)).rstrip('.')}."
        if code in _THROTTLED or status == 429:
            raise ThrottledError(words, hint="It is tried again more slowly.") from error
        if status >= 500:
            raise UnansweredError(words, hint="See https://health.aws.amazon.com; it is tried again.") from error
        raise RefusedError(words, hint="Check stack, region and permissions: `referee cloud status`.") from error
    except (BotoCoreError, ResponseParserError) as error:
        # The second: what answered is not AWS, but a proxy on the way that speaks for itself.
        said = str(error).partition("\n")[0].rstrip(".:")
        raise UnansweredError(
            f"AWS did not answer {what}: {said}.", hint="Check network, region and credentials; it is tried again."
        ) from error


def _hundreds(ids: Sequence[str]) -> Iterable[list[str]]:
    return (list(ids[begin : begin + MOST_DESCRIBED]) for begin in range(0, len(ids), MOST_DESCRIBED))
