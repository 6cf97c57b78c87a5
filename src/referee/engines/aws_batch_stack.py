"""What there is in the account for the engine `aws-batch`, and for how long what is waited for."""

from __future__ import annotations

from dataclasses import dataclass

from referee.challenge import AwsChoice
from referee.engines.aws_batch_calls import BatchCalls
from referee.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Stack:
    """What the CloudFormation stack made, as the engine needs it.

    Attributes:
        name: of the stack; queues are called by it and the machine type (`Fleet.queue`).
        definition: of the job that is a worker.
        events_url: of the queue that state changes come to; None: they are looked up.
        node_folder: where a machine's own folder is seen by jobs.
        heartbeat_alarm: which rings when no heartbeat comes; None: none is sent.
    """

    name: str
    definition: str
    events_url: str | None = None
    node_folder: str = "/var/lib/referee"
    heartbeat_alarm: str | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long what is waited for (seconds).

    Attributes:
        listen: between two times that events are fetched.
        look: between two times that states are looked up, because events may be lost.
        longest_wait: for a machine, while nothing of the queue moves; then the jobs are taken back.
        blocked: how long a machine type that could not be had is left alone.
    """

    listen: float = 60.0
    look: float = 300.0
    longest_wait: float = 3600.0
    blocked: float = 3600.0


def stack_of(choice: AwsChoice, calls: BatchCalls) -> Stack:
    """What the CloudFormation stack made, as it says itself.

    Raises:
        ConfigurationError: if it lacks something.
        HostError: if AWS does not show it.
    """
    outputs = calls.outputs(choice.stack)
    try:
        return Stack(
            choice.stack,
            outputs["JobDefinition"],
            outputs["EventsQueueUrl"],
            heartbeat_alarm=outputs.get("HeartbeatAlarm"),
        )
    except KeyError as error:
        raise ConfigurationError(
            f"The stack {choice.stack} has no output {error}.", hint="Make it with `referee cloud deploy`."
        ) from None


def patience_of(choice: AwsChoice) -> Patience:
    """For how long, as the challenge says."""
    return Patience(choice.listen.total_seconds(), choice.look.total_seconds(), choice.longest_wait.total_seconds())
