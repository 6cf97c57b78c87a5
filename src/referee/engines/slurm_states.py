"""What Slurm's words for a job mean: its states and reasons, as verdicts and in the operator's words. Pure.

No way in which Slurm ends a job is held against a submission: what a submission did stands in the worker's result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from referee.verdicts import Verdict

_WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})


@dataclass(frozen=True, slots=True)
class Child:
    """One child of a job array, as squeue shows it.

    Attributes:
        wave: the name under which it was submitted, without our prefix.
        handle: `<array's number>_<index>`.
        state: squeue(1), JOB STATE CODES.
        reason: squeue(1), JOB REASON CODES, and what Slurm adds to them.
        restarts: how often somebody had Slurm begin it anew.
        waited_seconds: from its submission to its begin, or to now.
    """

    wave: str
    index: int
    handle: str
    state: str
    node: str | None
    reason: str
    restarts: int = 0
    waited_seconds: float = field(default=0.0, compare=False)

    @property
    def is_waiting(self) -> bool:
        """It has not begun."""
        return self.state in _WAITING

    @property
    def is_running(self) -> bool:
        """It has begun, and something of it may still be there."""
        return self.state in _RUNNING

    @property
    def has_ended(self) -> bool:
        """Nothing more will come of it."""
        return not self.is_waiting and not self.is_running

    @property
    def word(self) -> str:
        """The reason's code: what stands before brackets, commas and explanations."""
        return self.reason.strip("()").replace(",", " ").partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Ended:
    """What an end means when there is no result, in the operator's words."""

    verdict: Verdict
    words: str


# squeue(1), JOB STATE CODES. A state that is not listed here is taken for a lost node.
ENDINGS: Mapping[str, Ended] = {
    "COMPLETED": Ended(Verdict.RESULT_LOST, "The job ended in order."),
    "FAILED": Ended(Verdict.NODE_LOST, "The job failed."),
    "TIMEOUT": Ended(Verdict.INTERRUPTED, "Slurm ended the job at its time limit, which lies beyond the worker's own."),
    "DEADLINE": Ended(Verdict.INTERRUPTED, "Slurm ended the job at its deadline."),
    "OUT_OF_MEMORY": Ended(
        Verdict.HOST_FULL, "The job, not the sandbox in it, ran out of memory: raise `engine.slurm.reserve`."
    ),
    "NODE_FAIL": Ended(Verdict.NODE_LOST, "The node failed."),
    "BOOT_FAIL": Ended(Verdict.NODE_LOST, "The node did not boot."),
    "PREEMPTED": Ended(Verdict.INTERRUPTED, "Another job preempted it."),
    "CANCELLED": Ended(Verdict.INTERRUPTED, "The job was cancelled."),
    "REVOKED": Ended(Verdict.INTERRUPTED, "The job was revoked."),
    "LAUNCH_FAILED": Ended(Verdict.NODE_LOST, "The node could not start the job."),
}
LOST = Ended(Verdict.NODE_LOST, "Slurm does not know the job any more.")
# A job that may not be requeued and whose node cannot start it ends as CANCELLED, with the node and without a reason
# (slurmd's log: "Could not launch job and not able to requeue it"). It never opened its log, which all others have.
NOT_LAUNCHED = Ended(
    Verdict.NODE_LOST, "Slurm: CANCELLED, and it never began. The node could not start the job: see its slurmd.log."
)
REQUEUED = Ended(
    Verdict.INTERRUPTED,
    "Somebody had Slurm requeue the job. An attempt is one execution, so it was cancelled instead of run again.",
)

# squeue(1), JOB REASON CODES: with these a job waits for ever, whatever becomes free.
IMPOSSIBLE: Mapping[str, str] = {
    "BadConstraints": "No node has what it asks for: compare the limits and `[engine.slurm]` with `sinfo -Nl`.",
    "PartitionTimeLimit": "It asks for more time than the partition allows: choose another one, or lower the limits.",
    "PartitionNodeLimit": "It asks for more than the partition gives: choose another one, or lower the limits.",
    "InvalidAccount": "The account is not valid: correct `engine.slurm.account`.",
    "InvalidQOS": "The quality of service is not valid: correct `engine.slurm.qos`.",
    "AccountNotAllowed": "The partition does not take this account: correct `engine.slurm`.",
    "QOSNotAllowed": "The partition does not take this quality of service: correct `engine.slurm`.",
    "DependencyNeverSatisfied": "Somebody made it depend on a job that failed: cancel it.",
}

# Limits that slurmdbd keeps of what one job of an account or a quality of service may be: no wait changes that.
_OF_EACH_JOB = re.compile(r"(?:Assoc|QOS)Max\w*PerJob(?:Limit)?|QOSMin\w+")
_TOO_MUCH = "The account or the quality of service allows less for one job: lower the limits, or ask the administrator."

# The same, for what somebody could mend while it waits.
HINDERED: Mapping[str, str] = {
    "JobHeldAdmin": "An administrator holds it: ask him, or `scontrol release`.",
    "JobHeldUser": "It is held: `scontrol release`.",
    "PartitionDown": "The partition is down: ask the administrator.",
    "PartitionInactive": "The partition is inactive: ask the administrator.",
    "ReqNodeNotAvail": "Its nodes are down, drained or reserved: see `sinfo -R`.",
    "Nodes": "Its nodes are down or drained: see `sinfo -R`.",
    "launch": "A node could not start it, and Slurm holds it: see the node's slurmd.log, then `scontrol release`.",
}


def never_begins(word: str) -> str | None:
    """The mend, if a job that waits for this reason waits for ever."""
    return _TOO_MUCH if _OF_EACH_JOB.fullmatch(word) else IMPOSSIBLE.get(word)


def ending(child: Child, *, began: bool) -> Ended:
    """What the end of a job means.

    Args:
        child: as Slurm showed it last.
        began: whether anything was ever heard of the job itself.
    """
    if child.state == "FAILED" and (mend := never_begins(child.word)):
        return Ended(Verdict.UNROUTABLE, f"Slurm could not start the job: {child.reason}. {mend}")
    if child.state == "CANCELLED" and child.node is not None and not began:
        return NOT_LAUNCHED
    ended = ENDINGS.get(child.state, LOST)
    told = f" ({child.reason})" if child.reason not in {"None", "NonZeroExitCode"} else ""
    return Ended(ended.verdict, f"Slurm: {child.state}{told}. {ended.words}")
