"""From what was seen from outside the container to a verdict: pure, one table, in order of strength.

The kernel's own counters come before anything that the submission can choose. An exit status can be forged (137 is
nothing but a number that a program may return), a memory cgroup's count of kills cannot.
"""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from referee.verdicts import Verdict

EndedBy = Literal["itself", "wall_time", "log_limit", "kill"]


class Trial(StrEnum):
    """What became of a container that is known to be good, started with the settings of one that did not start."""

    STARTED = "started"
    FAILED = "failed"
    NOT_MADE = "not_made"


class Found(StrEnum):
    """What lay at the agreed path when the container was gone."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the verdict is a function of.

    Attributes:
        started: the image's entrypoint was executed.
        ended_by: who ended the run.
        exit_status, signal: how the main process ended; at most one of them is set.
        oom_kills: processes of the container that the kernel killed because the memory cgroup was full.
        host_oom_kills: the same because the machine was full, which is no doing of the container.
        image_refused: the image itself was seen not to fit the contract, before anything was started.
        trial: for a container that never started: whether one that is known to be good did.
        found: what lay at the agreed path; only looked for after exit status 0.
        gpu_memory_reported: the log says that GPU memory ran out (can be forged, so it never decides alone).
        problem: the operator's sentence on a container that did not start, or on predictions that were refused.
        public_problem: the participant's part of it: a class of failure and a row number at most.
    """

    started: bool
    ended_by: EndedBy
    exit_status: int | None
    signal: int | None
    oom_kills: int
    host_oom_kills: int = 0
    image_refused: bool = False
    trial: Trial = Trial.NOT_MADE
    found: Found = Found.NOTHING
    gpu_memory_reported: bool = False
    problem: str = ""
    public_problem: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, what the operator reads about it, and the redacted line that a participant may see."""

    verdict: Verdict
    detail: str
    signature: str


def judge(seen: Evidence) -> Judgement:  # noqa: PLR0911 - one line for each row of the table
    """How the attempt ended, and so whose doing it was.

    A submission that ends with status 0 and acceptable predictions is done, even if the kernel killed a helper process
    of it on the way: the contract asks for nothing else. The operator is told, and the measurements say it.
    """
    if seen.ended_by == "kill":
        return Judgement(Verdict.INTERRUPTED, "The worker was told to stop while the container ran.", "")
    if not seen.started:
        return _not_started(seen)
    if seen.exit_status == 0 and seen.ended_by == "itself" and seen.found is Found.ACCEPTED:
        return Judgement(Verdict.OK, _kills(seen), "")
    if seen.oom_kills > 0:
        return Judgement(Verdict.MEMORY_LIMIT, f"{_kills(seen)} {_how_it_ended(seen)}".strip(), "memory limit reached")
    if seen.host_oom_kills > 0:
        return Judgement(
            Verdict.HOST_FULL,
            "The machine, or the job around the sandbox, ran out of memory: the kernel killed a process of the "
            "container, which was below its own limit.",
            "",
        )
    if seen.ended_by == "wall_time":
        return Judgement(Verdict.TIME_LIMIT, _how_it_ended(seen), "wall time limit reached")
    if seen.ended_by == "log_limit":
        return Judgement(Verdict.LOG_LIMIT, _how_it_ended(seen), "log limit reached")
    return _ended_by_itself(seen)


def _not_started(seen: Evidence) -> Judgement:
    problem = seen.problem or "The container did not start, and the runtime gave no reason."
    if seen.image_refused:
        return Judgement(Verdict.BAD_IMAGE, problem, "the image does not fit the contract")
    match seen.trial:
        case Trial.STARTED:
            detail = f"{problem} A container that is known to be good started with the same settings."
            return Judgement(Verdict.BAD_IMAGE, detail, "the image could not be started")
        case Trial.FAILED:
            detail = f"{problem} A container that is known to be good did not start with the same settings either."
            return Judgement(Verdict.SANDBOX_FAILED, detail, "")
        case Trial.NOT_MADE:
            return Judgement(Verdict.CANNOT_START, problem, "the image could not be started")


def _ended_by_itself(seen: Evidence) -> Judgement:
    if seen.exit_status is None and seen.signal is None:
        return Judgement(Verdict.SANDBOX_FAILED, "The runtime did not say how the container ended.", "")
    if seen.signal is not None or seen.exit_status != 0:
        ended = f"signal {_signal_name(seen.signal)}" if seen.signal is not None else f"exit status {seen.exit_status}"
        if seen.gpu_memory_reported:
            detail = f"{_how_it_ended(seen)} Its log says that GPU memory ran out."
            return Judgement(Verdict.GPU_OUT_OF_MEMORY, detail, f"{ended}, out of GPU memory according to its log")
        verdict = Verdict.CRASHED if seen.signal is not None else Verdict.NONZERO_EXIT
        return Judgement(verdict, _how_it_ended(seen), ended)
    if seen.found is Found.NOTHING:
        return Judgement(Verdict.NO_PREDICTIONS, seen.problem, "no predictions file at the agreed path")
    return Judgement(Verdict.INVALID_PREDICTIONS, seen.problem, seen.public_problem)


def _kills(seen: Evidence) -> str:
    if seen.oom_kills == 0:
        return ""
    count = "a process" if seen.oom_kills == 1 else f"{seen.oom_kills} processes"
    return f"The kernel killed {count} of the container at the memory limit."


def _how_it_ended(seen: Evidence) -> str:
    if seen.ended_by == "wall_time":
        return "It was killed at the wall time limit."
    if seen.ended_by == "log_limit":
        return "It was killed because it went on writing far beyond the log limit."
    if seen.signal is not None:
        return f"The main process was ended by signal {_signal_name(seen.signal)}."
    return f"The main process exited with status {seen.exit_status}."


def _signal_name(number: int | None) -> str:
    try:
        return f"{number} ({signals.Signals(number or 0).name})"
    except ValueError:
        return str(number)
