"""Every verdict: what it means, whose doing it was, and what a participant is told.

A verdict names how one attempt, and in the end one evaluation, ended. The table below is the only
place where blame is decided; `docs/verdicts.md` is generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Blame(StrEnum):
    """Whose doing an ending was; who pays for it follows from this (see `policy`)."""

    NONE = "none"
    SUBMISSION = "submission"
    HOST = "host"
    AMBIGUOUS = "ambiguous"


class Verdict(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    NONZERO_EXIT = "nonzero_exit"
    CRASHED = "crashed"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    LOG_LIMIT = "log_limit"
    NO_PREDICTIONS = "no_predictions"
    INVALID_PREDICTIONS = "invalid_predictions"
    BAD_IMAGE = "bad_image"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    CANNOT_START = "cannot_start"
    UNROUTABLE = "unroutable"
    INTERRUPTED = "interrupted"
    NODE_LOST = "node_lost"
    IMAGE_UNAVAILABLE = "image_unavailable"
    DATA_UNAVAILABLE = "data_unavailable"
    HOST_FULL = "host_full"
    SANDBOX_FAILED = "sandbox_failed"
    RESULT_LOST = "result_lost"
    DUPLICATE = "duplicate"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a verdict stands for.

    Attributes:
        blame: whose doing it was.
        meaning: for the operator, one sentence.
        participant: what the submission's team is told; never anything about private data.
    """

    blame: Blame
    meaning: str
    participant: str


_HOST_TEXT = "Your submission was not at fault: our machine failed. It is run again, or the operator looks into it."

MEANINGS: dict[Verdict, Meaning] = {
    Verdict.OK: Meaning(
        Blame.NONE,
        "The container exited with status 0 and its predictions passed every check.",
        "Your submission ran to its end and its predictions were accepted.",
    ),
    Verdict.NONZERO_EXIT: Meaning(
        Blame.SUBMISSION,
        "The container's main process exited by itself with a status other than 0.",
        "Your program ended with an error (a non-zero exit status).",
    ),
    Verdict.CRASHED: Meaning(
        Blame.SUBMISSION,
        "The main process was ended by a signal that Referee did not send, and the memory limit was not hit.",
        "Your program was ended by a signal, such as a segmentation fault or an abort.",
    ),
    Verdict.TIME_LIMIT: Meaning(
        Blame.SUBMISSION,
        "The wall time limit passed and the whole process tree was killed.",
        "Your program did not finish within the time limit.",
    ),
    Verdict.MEMORY_LIMIT: Meaning(
        Blame.SUBMISSION,
        "The kernel killed a process of the container because its memory cgroup hit its limit.",
        "Your program used more memory than the limit allows (files in /tmp, /dev/shm and the output count as memory).",
    ),
    Verdict.LOG_LIMIT: Meaning(
        Blame.SUBMISSION,
        "The container kept flooding its standard output or error far beyond the stored log, and was killed.",
        "Your program wrote far more to its standard output or error than the limit allows.",
    ),
    Verdict.NO_PREDICTIONS: Meaning(
        Blame.SUBMISSION,
        "The container exited with status 0 but left no predictions file at the agreed path.",
        "Your program ended without an error, but there was no predictions file at the agreed path.",
    ),
    Verdict.INVALID_PREDICTIONS: Meaning(
        Blame.SUBMISSION,
        "The predictions file was refused by the strict reader, or was not an ordinary file.",
        "Your predictions file was not well formed. Check it with `referee check` on a public phase.",
    ),
    Verdict.BAD_IMAGE: Meaning(
        Blame.SUBMISSION,
        "The image cannot be run under the contract: no entrypoint, a wrong architecture, or a forbidden path.",
        "Your image could not be started: check its entrypoint, its architecture and the paths of the contract.",
    ),
    Verdict.GPU_OUT_OF_MEMORY: Meaning(
        Blame.AMBIGUOUS,
        "The container failed and reported that GPU memory ran out, which is said by the process and can be forged.",
        "Your program reported that the GPU's memory ran out.",
    ),
    Verdict.CANNOT_START: Meaning(
        Blame.AMBIGUOUS,
        "The container never started, and a known good container could not settle whether the image was the reason.",
        "Your image could not be started. The operator is looking into it.",
    ),
    Verdict.UNROUTABLE: Meaning(
        Blame.HOST,
        "No machine of this challenge can run the submission: it asks for more than any of them has.",
        "No machine was available that fits your submission's declared needs. The operator is looking into it.",
    ),
    Verdict.INTERRUPTED: Meaning(
        Blame.HOST,
        "The worker was ended from outside before the submission was done: preempted, killed, or stopped.",
        _HOST_TEXT,
    ),
    Verdict.NODE_LOST: Meaning(
        Blame.HOST,
        "The machine or its worker vanished without a result.",
        _HOST_TEXT,
    ),
    Verdict.IMAGE_UNAVAILABLE: Meaning(
        Blame.HOST,
        "The image could not be read from the store or unpacked on the machine.",
        _HOST_TEXT,
    ),
    Verdict.DATA_UNAVAILABLE: Meaning(
        Blame.HOST,
        "The phase's data could not be staged, or did not match its recorded digests.",
        _HOST_TEXT,
    ),
    Verdict.HOST_FULL: Meaning(
        Blame.HOST,
        "The machine ran out of disk or memory outside the sandbox.",
        _HOST_TEXT,
    ),
    Verdict.SANDBOX_FAILED: Meaning(
        Blame.HOST,
        "The sandbox could not be set up, proven or measured, so nothing of the submission counted.",
        _HOST_TEXT,
    ),
    Verdict.RESULT_LOST: Meaning(
        Blame.HOST,
        "The attempt ended, but its result could not be stored or read back whole.",
        _HOST_TEXT,
    ),
    Verdict.DUPLICATE: Meaning(
        Blame.NONE,
        "Another worker had already claimed this attempt; this one ended without running anything.",
        "Nothing ran: the same attempt had already been started elsewhere.",
    ),
    Verdict.CANCELLED: Meaning(
        Blame.NONE,
        "The operator cancelled the attempt.",
        "The operator cancelled this run.",
    ),
}


def blame(verdict: Verdict) -> Blame:
    """Whose doing `verdict` was."""
    return MEANINGS[verdict].blame
