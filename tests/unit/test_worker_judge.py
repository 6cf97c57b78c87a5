"""The table from evidence to verdict, over every combination that can be seen."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from referee.verdicts import Blame, Verdict, blame
from referee.worker.gpu_memory import gpu_memory_reported
from referee.worker.judge import EndedBy, Evidence, Found, Trial, judge

ENDINGS: list[tuple[int | None, int | None]] = [(0, None), (1, None), (137, None), (None, 9), (None, 11), (None, None)]
EVERY = [
    Evidence(
        started=started,
        ended_by=ended_by,
        exit_status=status,
        signal=signal,
        oom_kills=oom_kills,
        host_oom_kills=host_oom_kills,
        image_refused=refused,
        trial=trial,
        found=found,
        gpu_memory_reported=gpu,
        problem="Row 7: the value 'SECRET' is not a number.",
        public_problem="Row 7: the value is not a number (not_a_number).",
    )
    for started, refused, ended_by, (status, signal), oom_kills, host_oom_kills, trial, found, gpu in itertools.product(
        (True, False), (False, True), get_args(EndedBy), ENDINGS, (0, 1, 3), (0, 2), Trial, Found, (False, True)
    )
]


def expected(seen: Evidence) -> Verdict:  # noqa: PLR0911 - a table, one line for each verdict, written apart from the code
    done = seen.started and seen.ended_by == "itself" and seen.exit_status == 0
    starts = {
        Trial.STARTED: Verdict.BAD_IMAGE,
        Trial.FAILED: Verdict.SANDBOX_FAILED,
        Trial.NOT_MADE: Verdict.CANNOT_START,
    }
    left = {
        Found.ACCEPTED: Verdict.OK,
        Found.REFUSED: Verdict.INVALID_PREDICTIONS,
        Found.NOTHING: Verdict.NO_PREDICTIONS,
    }
    if seen.ended_by == "kill":
        return Verdict.INTERRUPTED
    if not seen.started:
        return Verdict.BAD_IMAGE if seen.image_refused else starts[seen.trial]
    if done and seen.found is Found.ACCEPTED:
        return Verdict.OK
    if seen.oom_kills or seen.host_oom_kills:
        return Verdict.MEMORY_LIMIT if seen.oom_kills else Verdict.HOST_FULL
    if seen.ended_by != "itself":
        return {"wall_time": Verdict.TIME_LIMIT, "log_limit": Verdict.LOG_LIMIT}[seen.ended_by]
    if done:
        return left[seen.found]
    if (seen.exit_status, seen.signal) == (None, None):
        return Verdict.SANDBOX_FAILED
    if seen.gpu_memory_reported:
        return Verdict.GPU_OUT_OF_MEMORY
    return Verdict.CRASHED if seen.signal is not None else Verdict.NONZERO_EXIT


def test_every_combination_has_the_verdict_of_the_table() -> None:
    wrong = [(seen, judge(seen).verdict, expected(seen)) for seen in EVERY if judge(seen).verdict != expected(seen)]
    assert wrong == []
    assert len(EVERY) == 2 * 2 * 4 * 6 * 3 * 2 * 3 * 3 * 2


def test_every_verdict_that_a_worker_can_see_occurs() -> None:
    assert {judge(seen).verdict for seen in EVERY} == {
        Verdict.OK, Verdict.NONZERO_EXIT, Verdict.CRASHED, Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT, Verdict.LOG_LIMIT,
        Verdict.NO_PREDICTIONS, Verdict.INVALID_PREDICTIONS, Verdict.BAD_IMAGE, Verdict.GPU_OUT_OF_MEMORY,
        Verdict.CANNOT_START, Verdict.INTERRUPTED, Verdict.SANDBOX_FAILED, Verdict.HOST_FULL,
    }  # fmt: skip


def test_the_participant_s_line_quotes_nothing_and_the_host_s_faults_have_none() -> None:
    for seen in EVERY:
        judgement = judge(seen)
        assert "SECRET" not in judgement.signature
        if blame(judgement.verdict) in {Blame.HOST, Blame.NONE}:
            assert judgement.signature == ""
        else:
            assert judgement.signature


def test_a_program_can_forge_no_fault_of_the_host_by_how_it_ends() -> None:
    """Whoever starts, ends by itself and says how, is never charged to the host (which would run it again for free)."""
    for seen in EVERY:
        told = (seen.exit_status, seen.signal) != (None, None) and not seen.host_oom_kills
        if seen.started and seen.ended_by == "itself" and told:
            assert blame(judge(seen).verdict) is not Blame.HOST


def plain(**facts: object) -> Evidence:
    known: dict[str, object] = {
        "started": True, "ended_by": "itself", "exit_status": 0, "signal": None, "oom_kills": 0,
    }  # fmt: skip
    return Evidence(**(known | facts))  # type: ignore[arg-type] - a table of keyword arguments


@pytest.mark.parametrize(
    ("seen", "verdict", "signature"),
    [
        (plain(exit_status=137), Verdict.NONZERO_EXIT, "exit status 137"),
        (plain(exit_status=None, signal=9), Verdict.CRASHED, "signal 9 (SIGKILL)"),
        (plain(exit_status=None, signal=11), Verdict.CRASHED, "signal 11 (SIGSEGV)"),
        (plain(exit_status=None, signal=63), Verdict.CRASHED, "signal 63"),
        (plain(exit_status=1, oom_kills=1), Verdict.MEMORY_LIMIT, "memory limit reached"),
        (plain(exit_status=0, oom_kills=1, found=Found.ACCEPTED), Verdict.OK, ""),
        (plain(exit_status=0, oom_kills=1, found=Found.NOTHING), Verdict.MEMORY_LIMIT, "memory limit reached"),
        (plain(ended_by="wall_time", exit_status=None, signal=9), Verdict.TIME_LIMIT, "wall time limit reached"),
        (plain(started=False, exit_status=None), Verdict.CANNOT_START, "the image could not be started"),
    ],
)
def test_the_cases_that_are_easily_confused(seen: Evidence, verdict: Verdict, signature: str) -> None:
    assert (judge(seen).verdict, judge(seen).signature) == (verdict, signature)


def test_a_kill_of_a_helper_is_told_to_the_operator_of_an_accepted_run() -> None:
    assert "killed 2 processes" in judge(plain(oom_kills=2, found=Found.ACCEPTED)).detail


@pytest.mark.parametrize(
    ("log", "tail", "said"),
    [
        (b"RuntimeError: CUDA out of memory. Tried to allocate", "", True),
        (b"kept beginning", "torch.OutOfMemoryError: ...", True),
        (b"", "CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
        (b"", "cudaErrorMemoryAllocation", True),
        (b"\xff\xfe", "RESOURCE_EXHAUSTED: Out of memory while trying to allocate", True),
        (b"MemoryError", "Killed", False),
        (b"CUDA error: an illegal memory access was encountered", "", False),
    ],
)
def test_what_counts_as_saying_that_gpu_memory_ran_out(log: bytes, tail: str, said: bool) -> None:
    assert gpu_memory_reported(log, tail) is said
