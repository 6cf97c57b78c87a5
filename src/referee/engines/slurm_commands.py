"""Slurm's commands, as far as Referee uses them: one for each question, their words read strictly.

Only sbatch, squeue, sinfo, scontrol and scancel are used, which every cluster lets its users use. Neither slurmdbd
(sacct) nor jobcomp's files are: squeue shows a job for MinJobAge (300 s by default) after its end, and whoever looks
later reads the result, or finds the job lost.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from referee.engines.contract import SilentError
from referee.engines.slurm_states import Child
from referee.errors import HostError

PREFIX = "referee-"

_PATIENCE_SECONDS = 60.0
_CANCEL_AT_ONCE = 500  # well below the length that a command line may have
_SILENT = re.compile(
    r"[Uu]nable to contact slurm controller|Connection refused|timed out|Connection reset|Zero Bytes were transmitted"
    r"|backup controller|Slurm temporarily unable|Resource temporarily unavailable|slurm_load"
)
_UNFIT = re.compile(
    r"Requested node configuration is not available|Memory specification can not be satisfied"
    r"|CPU count per node can not be satisfied|More processors requested than permitted|time limit is invalid"
    r"|Invalid generic resource|Invalid feature specification"
)
# Each of any length, with `|` behind it (squeue(1), --Format).
_FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "NodeList", "Name", "RestartCnt", "PendingTime", "Reason")
_FORMAT = ",".join(f"{field}:.|" for field in _FIELDS)


class SlurmSilentError(SilentError):
    """slurmctld did not answer: nothing is known, and what was asked for may or may not have been done."""


class SlurmRefusedError(HostError):
    """Slurm said no."""


class SlurmUnfitError(SlurmRefusedError):
    """Slurm said that no node has what was asked for."""


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

    def test(self, options: Sequence[str]) -> None:
        """Ask whether such a job could ever run; none is made.

        Raises:
            SlurmRefusedError: why not.
        """
        self._run(["sbatch", "--test-only", *options], given="#!/bin/sh\n")

    def children(self) -> list[Child]:
        """Every child of ours that Slurm knows, whoever submitted it, in one call.

        Raises:
            SlurmSilentError: nothing can be told.
        """
        lines = self._run(["squeue", "--me", "--array", "--states=all", "--noheader", f"--Format={_FORMAT}"])
        return [child for line in lines.splitlines() if (child := _child(line)) is not None]

    def cancel(self, handles: Sequence[str]) -> None:
        """Cancel jobs; those that have ended are passed over."""
        for begin in range(0, len(handles), _CANCEL_AT_ONCE):
            self._run(["scancel", "--quiet", *handles[begin : begin + _CANCEL_AT_ONCE]], may_fail=True)

    def drain(self, node: str, reason: str) -> None:
        """Have Slurm place nothing more on the node, whoever's it is; it takes an administrator of Slurm.

        Raises:
            SlurmRefusedError: if this user may not.
        """
        self._run(["scontrol", "update", f"nodename={node}", "state=drain", f"reason={reason}"])

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
        kind = SlurmUnfitError if _UNFIT.search(said) else SlurmRefusedError
        raise kind(f"{words[0]} refused: {said}", hint="Correct `[engine.slurm]` in challenge.toml.")


_ASK = "Is slurmctld up? `scontrol ping` tells; running jobs go on without it."


def _child(line: str) -> Child | None:
    number, index, state, node, name, restarts, waited, reason = line.split("|")[: len(_FIELDS)]
    if not name.startswith(PREFIX) or not index.isdigit():
        return None
    return Child(
        wave=name.removeprefix(PREFIX),
        index=int(index),
        handle=f"{number}_{index}",
        state=state.partition(" ")[0],
        node=node or None,
        reason=reason,
        restarts=int(restarts) if restarts.isdigit() else 0,
        waited_seconds=float(waited) if waited.isdigit() else 0.0,
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
