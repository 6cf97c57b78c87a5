"""Rows as the ledger's queries give them, for tests of what follows from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from referee.attempts import Measurements
from referee.ledger.queries import AttemptRow, EvaluationRow, ScoreRow
from referee.verdicts import Verdict

WHEN = datetime(2020, 4, 1, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64


def evaluation(submission: str, verdict: Verdict | None = Verdict.OK, phase: str = "private_test") -> EvaluationRow:
    unused: dict[str, Any] = dict.fromkeys(EvaluationRow.__slots__)
    known = {
        "evaluation": f"{submission}.{phase}",
        "submission": submission,
        "team": f"t-{submission[-1]}",
        "submission_kind": "cpu",
        "image": DIGEST,
        "phase": phase,
        "order": 0,
        "round": 1,
        "attempts": 1,
        "open_attempt": None,
        "last_verdict": verdict,
        "verdict": verdict,
        "attempt": f"{submission}.{phase}.1" if verdict else None,
        "reason": "",
        "requested_at": WHEN,
        "ended_at": WHEN if verdict else None,
        "predictions_digest": DIGEST if verdict is Verdict.OK else None,
    }
    return EvaluationRow(**unused | known)


def score(submission: str, value: float, metric: str = "log_loss", phase: str = "private_test") -> ScoreRow:
    return ScoreRow(f"{submission}.{phase}", submission, metric, value, DIGEST, DIGEST, "test")


def attempt(row: EvaluationRow, *, seconds: float | None = 10.0, machine: str = "local", mib: int = 100) -> AttemptRow:
    """The attempt that `row` rests on; `seconds` is None where a node was lost before it could tell."""
    unused: dict[str, Any] = dict.fromkeys(AttemptRow.__slots__)
    known = {
        "attempt": row.attempt,
        "evaluation": row.evaluation,
        "result_key": f"key-{row.submission}",
        "machine_type": machine,
        "verdict": row.verdict,
        "planned_at": WHEN,
    }
    if seconds is not None:
        known |= {
            "started_at": WHEN,
            "ended_at": WHEN + timedelta(seconds=seconds),
            "measurements": Measurements(wall_seconds=seconds, cpu_seconds=seconds / 2, peak_memory_bytes=mib * 2**20),
        }
    return AttemptRow(**unused | known)
