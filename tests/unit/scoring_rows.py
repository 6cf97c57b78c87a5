"""Rows as the ledger's queries give them, for tests of what follows from them."""

from __future__ import annotations

from datetime import UTC, datetime

from referee.ledger.queries import EvaluationRow, ScoreRow
from referee.verdicts import Verdict

WHEN = datetime(2020, 4, 1, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64


def evaluation(submission: str, verdict: Verdict | None = Verdict.OK, phase: str = "private_test") -> EvaluationRow:
    return EvaluationRow(
        evaluation=f"{submission}.{phase}",
        submission=submission,
        team=f"t-{submission[-1]}",
        submission_kind="cpu",
        image=DIGEST,
        phase=phase,
        order=0,
        round=1,
        attempts=1,
        open_attempt=None,
        last_verdict=verdict,
        verdict=verdict,
        attempt=f"{submission}.{phase}.1" if verdict else None,
        reason="",
        requested_at=WHEN,
        ended_at=WHEN if verdict else None,
        predictions_digest=DIGEST if verdict is Verdict.OK else None,
    )


def score(submission: str, value: float, metric: str = "log_loss", phase: str = "private_test") -> ScoreRow:
    return ScoreRow(f"{submission}.{phase}", submission, metric, value, DIGEST, DIGEST, "test")
