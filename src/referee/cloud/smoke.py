"""A few cents' worth of jobs on the real stack, that show what no stand-in can.

Nothing of this has been run by us: we had no account. It is written to say what it sees, whatever that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from referee.challenge import SPOT, AwsChoice
from referee.cloud.compute import HISTORICAL
from referee.engines.aws_batch_calls import BatchCalls
from referee.engines.aws_batch_fleet import Fleet
from referee.errors import ConfigurationError

NOT_RUN = (
    "This command has not been run by the makers of Referee, who had no account: what it says is all that is known. "
    "Read what it prints, and docs/aws.md, before you trust the stack with a campaign."
)
_POLL_SECONDS = 15.0
_LONGEST_SECONDS = 1800.0
_TIME_LIMIT_SECONDS = 900
_CHECKS = {
    "sandbox": ["referee", "doctor", "--json"],
    "metadata": ["python", "-m", "referee.cloud.inside", "metadata"],
    "gpu": ["python", "-m", "referee.cloud.inside", "gpu"],
    "kill": ["python", "-m", "referee.cloud.inside", "sleep"],
}
_ENDED = {137, 143}  # 128 + SIGKILL; and SIGTERM, if that came before the program was ready for it


@dataclass(frozen=True, slots=True)
class Seen:
    """What one job came to. `status` is Batch's last word, `log` the end of what it printed."""

    machine_type: str
    check: str
    status: str
    exit_code: int | None
    reason: str
    seconds: float
    log: str

    @property
    def good(self) -> bool:
        """Whether it came to what was promised: one job is to be ended by us, all others are to end in order."""
        return self.exit_code in _ENDED if self.check == "kill" else self.status == "SUCCEEDED"


def smoke(
    choice: AwsChoice,
    fleet: Fleet,
    outputs: dict[str, str],
    *,
    only: Sequence[str] = (),
    on_step: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> list[Seen]:
    """Run the checks on each machine type, one after the other, each on a machine that Batch starts for it.

    Args:
        choice: which stack.
        fleet: its machine types.
        outputs: of the stack.
        only: these machine types.
        on_step: is told what is done.
        pause: sleeps.

    Raises:
        ConfigurationError: if there is no such machine type.
        HostError: if AWS refuses.
    """
    there = [name for name in fleet.machines if not name.startswith(HISTORICAL)]
    if unknown := [name for name in only if name not in there]:
        raise ConfigurationError(f"The stack has no machine type {unknown[0]!r}.", hint=f"It has: {', '.join(there)}.")
    calls = BatchCalls(choice.region, choice.profile)
    found = []
    for name in only or [name for name in there if not name.endswith(SPOT)]:
        machine = fleet.machines[name]
        for check, command in _CHECKS.items():
            if check == "gpu" and not machine.gpus:
                continue
            on_step(f"{name}: {check}")
            job = calls.submit(_request(choice, fleet, outputs, name, check, command))
            found.append(_follow(calls, name, check, job, pause, outputs.get("WorkerLogs", "")))
    return found


def _request(
    choice: AwsChoice, fleet: Fleet, outputs: dict[str, str], name: str, check: str, command: list[str]
) -> dict[str, Any]:
    needs = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "2048"}]
    if check == "gpu":
        needs.append({"type": "GPU", "value": "1"})
    return {
        "jobName": f"smoke-{check}",
        "jobQueue": fleet.queue(choice.stack, name),
        "jobDefinition": outputs["JobDefinition"],
        "retryStrategy": {"attempts": 1},
        "timeout": {"attemptDurationSeconds": _TIME_LIMIT_SECONDS},
        "containerOverrides": {"command": command, "resourceRequirements": needs},
        "tags": {"referee": choice.stack, "referee-campaign": "smoke"},
    }


def _follow(calls: BatchCalls, name: str, check: str, job: str, pause: Callable[[float], None], log_group: str) -> Seen:
    waited, ended_by_us = 0.0, False
    while True:
        [facts] = calls.describe([job])
        status = facts["status"]
        if check == "kill" and status == "RUNNING" and not ended_by_us:
            calls.terminate(job, "The smoke test ends it.")
            ended_by_us = True
        if status in {"SUCCEEDED", "FAILED"} or waited > _LONGEST_SECONDS:
            break
        pause(_POLL_SECONDS)
        waited += _POLL_SECONDS
    if status not in {"SUCCEEDED", "FAILED"}:
        calls.terminate(job, "The smoke test has waited for half an hour.")
    container = facts.get("container", {})
    began, ended = facts.get("startedAt"), facts.get("stoppedAt")
    stream = container.get("logStreamName")
    return Seen(
        name,
        check,
        status,
        container.get("exitCode"),
        facts.get("statusReason", ""),
        (ended - began) / 1000 if began and ended else 0.0,
        calls.log(log_group, stream) if stream and log_group else "",
    )
