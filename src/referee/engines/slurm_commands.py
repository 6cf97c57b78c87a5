"""Slurm's commands, as far as Referee uses them: one for each question, their words read strictly.

Only sbatch, squeue, sinfo, scontrol and scancel are used, which every cluster lets its users use. slurmdbd is not
needed: squeue shows a job for MinJobAge (300 s by default) after its end, and whoever looks later reads the result.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from referee.errors import HostError
from referee.verdicts import Verdict

PREFIX = "referee-"

_PATIENCE_SECONDS = 60.0
_CANCEL_AT_ONCE = 500  # well below the length that a command line may have
_SILENT = re.compile(
    r"[Uu]nable to contact slurm controller|Connection refused|timed out|Connection reset|Zero Bytes were transmitted"
    r"|backup controller|Slurm temporarily unable|Resource temporarily unavailable|slurm_load"
)
_FIELDS = "%F|%K|%T|%N|%j|%r"
_WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})


class SlurmSilentError(HostError):
    """slurmctld did not answer: nothing is known, and what was asked for may or may not have been done."""


class SlurmRefusedError(HostError):
    """Slurm said no."""


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
    "OUT_OF_MEMORY": Ended(Verdict.HOST_FULL, "The job, not the sandbox in it, ran out of memory."),
    "NODE_FAIL": Ended(Verdict.NODE_LOST, "The node failed."),
    "BOOT_FAIL": Ended(Verdict.NODE_LOST, "The node did not boot."),
    "PREEMPTED": Ended(Verdict.INTERRUPTED, "Another job preempted it."),
    "CANCELLED": Ended(Verdict.INTERRUPTED, "The job was cancelled."),
    "REVOKED": Ended(Verdict.INTERRUPTED, "The job was revoked."),
    "LAUNCH_FAILED": Ended(Verdict.NODE_LOST, "The node could not start the job."),
}

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


@dataclass(frozen=True, slots=True)
class Child:
    """One child of a job array, as squeue shows it."""

    wave: str
    index: int
    handle: str
    state: str
    node: str | None
    reason: str

    @property
    def is_waiting(self) -> bool:
        """It has not begun."""
        return self.state in _WAITING

    @property
    def is_running(self) -> bool:
        """It has begun, and something of it may still be there."""
        return self.state in _RUNNING


class SlurmCommands:
    """Runs the commands.

    Args:
        environment: beside this process's own, such as SLURM_CONF.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(os.environ) | dict(environment or {}) | {"SLURM_TIME_FORMAT": "standard"}
        self.calls: dict[str, int] = {}

    def submit(self, options: Sequence[str], script: str) -> str:
        """Submit a job array; returns the number that Slurm gave it.

        Raises:
            SlurmSilentError: it may have been taken nevertheless.
            SlurmRefusedError: it was not.
        """
        answer = self._run(["sbatch", "--parsable", *options], given=script)
        number = answer.strip().partition(";")[0]
        if not number.isdigit():
            raise SlurmSilentError(f"sbatch answered {answer!r}.", hint="Look at `squeue`.")
        return number

    def children(self) -> list[Child]:
        """Every child of ours that Slurm knows, whoever submitted it, in one call.

        Raises:
            SlurmSilentError: nothing can be told.
        """
        lines = self._run(["squeue", "--me", "--array", "--states=all", "--noheader", f"--format={_FIELDS}"])
        return [child for line in lines.splitlines() if (child := _child(line)) is not None]

    def cancel(self, handles: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are passed over."""
        for begin in range(0, len(handles), _CANCEL_AT_ONCE):
            self._run(["scancel", "--quiet", *handles[begin : begin + _CANCEL_AT_ONCE]], may_fail=True)

    def nodes(self, partitions: Sequence[str]) -> list[dict[str, str]]:
        """The nodes of the partitions, or of the default one: name, CPUs, MiB of memory, GRES, state."""
        names = ("node", "cpus", "memory", "gres", "state", "partition")
        chosen = [f"--partition={','.join(partitions)}"] if partitions else []
        lines = self._run(["sinfo", "--Node", "--noheader", "--format=%N|%c|%m|%G|%T|%P", *chosen]).splitlines()
        rows = [dict(zip(names, line.split("|"), strict=True)) for line in lines]
        return rows if partitions else [row for row in rows if row["partition"].endswith("*")]

    def configuration(self) -> dict[str, str]:
        """What `scontrol show config` says."""
        lines = self._run(["scontrol", "show", "config"]).splitlines()
        return {
            name.strip(): value.strip() for name, equals, value in (line.partition("=") for line in lines) if equals
        }

    def _run(self, words: list[str], *, given: str | None = None, may_fail: bool = False) -> str:
        self.calls[words[0]] = self.calls.get(words[0], 0) + 1
        if shutil.which(words[0], path=self._environment.get("PATH")) is None:
            raise HostError(f"{words[0]} is not installed here.", hint="Run on a machine that submits to the cluster.")
        try:
            done = subprocess.run(
                words, input=given or "", capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False,
                env=self._environment, cwd="/",
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SlurmSilentError(f"{words[0]} did not answer in {_PATIENCE_SECONDS:.0f} s.", hint=_ASK) from error
        if done.returncode == 0 or (may_fail and not _SILENT.search(done.stderr)):
            return done.stdout
        said = " ".join(done.stderr.split())[-500:]
        if _SILENT.search(said):
            raise SlurmSilentError(f"Slurm does not answer: {said}", hint=_ASK)
        raise SlurmRefusedError(f"{words[0]} refused: {said}", hint="Correct `[engine.slurm]` in challenge.toml.")


_ASK = "Is slurmctld up? `scontrol ping` tells; running jobs go on without it."


def _child(line: str) -> Child | None:
    number, index, state, node, name, reason = line.split("|", 5)
    if not name.startswith(PREFIX) or not index.isdigit():
        return None
    return Child(
        name.removeprefix(PREFIX), int(index), f"{number}_{index}", state.partition(" ")[0], node or None, reason
    )


def array(indices: Sequence[int]) -> str:
    """`--array` for these indices, such as `0-3,7`."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
