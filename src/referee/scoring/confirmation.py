"""The prize zone, run again: how each further run compares with the official result. Pure; no score changes by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from referee.ledger.events import ConfirmedRun
from referee.ledger.queries import AttemptRow, EvaluationRow, ScoreRow
from referee.scoring.leaderboard import Leaderboard
from referee.verdicts import Verdict


def prize_zone(board: Leaderboard, top: int) -> tuple[str, ...]:
    """The submissions ranked `top` or better; with a tie at the border more than `top`."""
    return tuple(row.submission for row in board.rows if row.rank <= top)


def confirmed_runs(
    board: Leaderboard,
    official: Mapping[str, str | None],
    runs: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    scores: Sequence[ScoreRow],
) -> tuple[ConfirmedRun, ...]:
    """Each further run beside the official result, by submission and series.

    Args:
        board: the official board.
        official: the digest of each submission's official predictions.
        runs: the further evaluations.
        attempts: theirs.
        scores: theirs.
    """
    nodes = {attempt.attempt: attempt.node for attempt in attempts}
    known = {score.evaluation: score.value for score in scores if score.metric == board.metric}
    others = {row.submission: row.score for row in board.rows}
    found = []
    for run in sorted(runs, key=lambda run: (run.submission, run.series)):
        valid = run.verdict is Verdict.OK
        score = known.get(run.evaluation) if valid else None
        beside = [value for submission, value in others.items() if submission != run.submission]
        found.append(
            ConfirmedRun(
                submission=run.submission,
                series=run.series,
                verdict=run.verdict or Verdict.CANCELLED,
                node=nodes.get(run.attempt or ""),
                same_predictions=run.predictions_digest == official[run.submission] if valid else None,
                score=None if score is None else repr(score),
                rank=None if score is None else _rank(score, beside, greater_is_better=board.greater_is_better),
            )
        )
    return tuple(found)


def _rank(score: float, others: Sequence[float], *, greater_is_better: bool) -> int:
    return 1 + sum(other > score if greater_is_better else other < score for other in others)
