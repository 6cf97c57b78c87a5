"""Making, changing, looking at and removing the stack in an account."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from referee.challenge import AwsChoice
from referee.cloud.words import TAG, Json
from referee.errors import ConfigurationError, ConflictError, HostError

_NO_CHANGE = "No updates are to be performed"
_WAIT = {"Delay": 10, "MaxAttempts": 360}  # an hour; interface endpoints alone take minutes


@dataclass(frozen=True, slots=True)
class QueueState:
    """A job queue and its compute environment, as AWS says. `jobs` are live ones, an array counted as one."""

    name: str
    state: str
    health: str
    vcpus: int
    most_vcpus: int
    jobs: int


@dataclass(frozen=True, slots=True)
class StackState:
    """What there is of the stack."""

    name: str
    status: str
    reason: str
    outputs: Mapping[str, str]
    queues: tuple[QueueState, ...]
    instances: tuple[str, ...]


class Account:
    """An AWS account, seen through the credentials of this machine.

    Args:
        choice: which stack, where.
        wait: how long a stack's change is waited for, as boto3's waiters take it.
    """

    def __init__(self, choice: AwsChoice, wait: Mapping[str, int] | None = None) -> None:
        try:
            import boto3  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "`referee cloud` needs boto3.", hint="Install it: pip install 'referee[aws]'."
            ) from error
        self._choice = choice
        self._session = boto3.session.Session(region_name=choice.region, profile_name=choice.profile)
        self._wait = dict(wait or _WAIT)

    def deploy(self, template: Json, parameters: Mapping[str, str], *, on_step: Callable[[str], None]) -> bool:
        """Create the stack, or bring it up to the template; returns whether anything changed.

        Raises:
            HostError: if AWS refuses, or the change fails and is rolled back.
        """
        stacks = self._client("cloudformation")
        given = {"S3PrefixList": self._prefix_list(), **parameters}
        known = set(template["Parameters"])
        if unknown := set(given) - known:
            raise ConfigurationError(
                f"The template has no parameter {', '.join(sorted(unknown))}.",
                hint=f"It has: {', '.join(sorted(known))}.",
            )
        status = self._status()[0]
        update = status not in {"", "DELETE_COMPLETE", "REVIEW_IN_PROGRESS"}
        # On an update, what is not named again stays as it is.
        values: list[Json] = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
        if update:
            values += [{"ParameterKey": key, "UsePreviousValue": True} for key in sorted(known - set(given))]
        request = {
            "StackName": self._choice.stack,
            "TemplateBody": json.dumps(template, separators=(",", ":")),
            "Parameters": values,
            "Capabilities": ["CAPABILITY_NAMED_IAM"],
            "Tags": [{"Key": TAG, "Value": self._choice.stack}],
        }
        on_step("Changing the stack" if update else "Creating the stack")
        with _explained("change the stack"):
            try:
                (stacks.update_stack if update else stacks.create_stack)(**request)
            except stacks.exceptions.ClientError as error:
                if _NO_CHANGE in str(error):
                    return False
                raise
        self._wait_for("stack_update_complete" if update else "stack_create_complete")
        return True

    def state(self) -> StackState:
        """What there is of the stack; `status` is empty if there is none."""
        status, reason, outputs = self._status()
        queues: list[QueueState] = []
        instances: list[str] = []
        if status and status != "DELETE_COMPLETE":
            with _explained("look at the stack"):
                queues = self._queues()
                instances = self._instances()
        return StackState(self._choice.stack, status, reason, outputs, tuple(queues), tuple(instances))

    def destroy(self, *, force: bool, on_step: Callable[[str], None]) -> str:
        """Remove the stack, but for the bucket and its key, which hold the evidence; returns the bucket's name.

        Raises:
            ConflictError: if jobs or machines are still there, unless `force`.
        """
        seen = self.state()
        if not seen.status:
            raise ConfigurationError(
                f"There is no stack {self._choice.stack}.", hint="`referee cloud status` shows it."
            )
        busy = [queue.name for queue in seen.queues if queue.jobs]
        if (busy or seen.instances) and not force:
            what = f"{len(seen.instances)} instances are up" if seen.instances else f"jobs are in {', '.join(busy)}"
            raise ConflictError(
                f"The stack {seen.name} is at work: {what}.",
                hint="Let the campaign end, or say --force, which ends what runs.",
            )
        on_step("Removing the stack")
        with _explained("remove the stack"):
            self._client("cloudformation").delete_stack(StackName=self._choice.stack)
        self._wait_for("stack_delete_complete")
        return seen.outputs.get("Bucket", "")

    # Inside

    def _client(self, service: str) -> Any:
        return self._session.client(service)

    def _status(self) -> tuple[str, str, dict[str, str]]:
        stacks = self._client("cloudformation")
        with _explained("ask for the stack"):
            try:
                found = stacks.describe_stacks(StackName=self._choice.stack)["Stacks"][0]
            except stacks.exceptions.ClientError as error:
                if "does not exist" in str(error):
                    return "", "", {}
                raise
        outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
        return found["StackStatus"], found.get("StackStatusReason", ""), outputs

    def _prefix_list(self) -> str:
        name = f"com.amazonaws.{self._choice.region}.s3"
        with _explained("look up S3's prefix list"):
            found = self._client("ec2").describe_managed_prefix_lists(
                Filters=[{"Name": "prefix-list-name", "Values": [name]}]
            )["PrefixLists"]
        if not found:
            raise HostError(f"There is no prefix list {name}.", hint="Check `engine.aws.region`.")
        return str(found[0]["PrefixListId"])

    def _queues(self) -> list[QueueState]:
        batch = self._client("batch")
        prefix = f"{self._choice.stack}-"
        queues = [
            each
            for page in batch.get_paginator("describe_job_queues").paginate()
            for each in page["jobQueues"]
            if each["jobQueueName"].startswith(prefix)
        ]
        environments = {
            each["computeEnvironmentName"]: each
            for page in batch.get_paginator("describe_compute_environments").paginate()
            for each in page["computeEnvironments"]
        }
        found = []
        for queue in sorted(queues, key=lambda queue: str(queue["jobQueueName"])):
            environment = environments.get(queue["jobQueueName"], {})
            resources = environment.get("computeResources", {})
            jobs = sum(
                len(page["jobSummaryList"])
                for status in ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")
                for page in batch.get_paginator("list_jobs").paginate(jobQueue=queue["jobQueueName"], jobStatus=status)
            )
            health = f"{environment.get('status', 'missing')} {environment.get('statusReason', '')}".strip()
            found.append(
                QueueState(
                    queue["jobQueueName"],
                    queue["state"],
                    health,
                    int(resources.get("desiredvCpus", 0)),
                    int(resources.get("maxvCpus", 0)),
                    jobs,
                )
            )
        return found

    def _instances(self) -> list[str]:
        filters = [
            {"Name": f"tag:{TAG}", "Values": [self._choice.stack]},
            {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "shutting-down"]},
        ]
        pages = self._client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
        groups = [group for page in pages for group in page["Reservations"]]
        return [each["InstanceId"] for group in groups for each in group["Instances"]]

    def _wait_for(self, what: str) -> None:
        from botocore.exceptions import WaiterError  # noqa: PLC0415 - an extra

        stacks = self._client("cloudformation")
        try:
            stacks.get_waiter(what).wait(StackName=self._choice.stack, WaiterConfig=self._wait)
        except WaiterError as error:
            raise HostError(
                f"The stack did not get there: {self._first_failure() or error}.",
                hint="CloudFormation has taken it back; mend the reason and deploy again.",
            ) from error

    def _first_failure(self) -> str:
        with _explained("read the stack's events"):
            pages = self._client("cloudformation").get_paginator("describe_stack_events")
            events = [each for page in pages.paginate(StackName=self._choice.stack) for each in page["StackEvents"]]
        failed = [each for each in events if each["ResourceStatus"].endswith("_FAILED")]
        if not failed:
            return ""
        first = min(failed, key=lambda each: each["Timestamp"])
        return f"{first['LogicalResourceId']}: {first.get('ResourceStatusReason', first['ResourceStatus'])}"


class _explained:  # noqa: N801 - read as a verb
    """Turns what boto3 raises into one sentence and a hint."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra
        from botocore.parsers import ResponseParserError  # noqa: PLC0415 - an extra

        if isinstance(error, ClientError):
            words = error.response.get("Error", {}).get("Message", str(error)).rstrip(".")
            raise HostError(f"AWS refused to {self._what}: {words}.", hint="Check your permissions.") from error
        if isinstance(error, BotoCoreError | ResponseParserError):  # the second: an answer that is not AWS's
            said = str(error).partition("\n")[0].rstrip(".:")
            raise HostError(
                f"AWS could not be asked to {self._what}: {said}.", hint="Check credentials, region and network."
            ) from error
