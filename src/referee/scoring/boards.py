"""The boards that follow from a ledger and a challenge: the one function behind every board that is shown or checked.

The command line and the report ask it with the operator's ledger; the auditor's `referee verify` asks it with a ledger
that was built again from a bundle's chain.
"""

from __future__ import annotations

from dataclasses import replace

from referee.challenge import Challenge, MetricChoice
from referee.ledger import Ledger, queries
from referee.scoring.leaderboard import NOT_SCORED, SEALED, Leaderboard, leaderboard
from referee.scoring.metric import chosen_metrics, constant_half
from referee.scoring.rejudging import Staged, applied
from referee.scoring.sealing import is_sealed


def metric_in_force(challenge: Challenge, ledger: Ledger, phase: str) -> MetricChoice:
    """The metrics that a phase's scores stand under; the challenge's while there are none."""
    return queries.scoring(ledger, phase) or challenge.metric


def board_of(challenge: Challenge, ledger: Ledger, phase: str, staged: Staged | None = None) -> Leaderboard:
    """The leaderboard of a phase; beside a private phase the last public one that was scored.

    With `staged`, as it would be if that rejudging were applied.
    """
    evaluations, scores = queries.evaluations(ledger), queries.scores(ledger)
    choice = metric_in_force(challenge, ledger, phase)
    if staged is not None:
        evaluations, scores = applied(evaluations, scores, staged)
        choice = staged.choice
    metrics = chosen_metrics(choice)
    held = queries.held(ledger, phase)
    board = leaderboard(
        phase,
        metrics,
        evaluations,
        scores,
        reference_score=constant_half(metrics[0]),
        public=public_board_of(challenge, ledger) if challenge.phase(phase).visibility == "private" else None,
        refusals=queries.refusals(ledger),
        rulings=list(queries.taken_off(ledger).values()),
        held=[(row, held[row.submission]) for row in queries.submissions(ledger) if row.submission in held],
    )
    return _sealed(board) if is_sealed(ledger, phase) else board


def _sealed(board: Leaderboard) -> Leaderboard:
    told = tuple(replace(one, reason=SEALED) if one.reason == NOT_SCORED else one for one in board.unscored)
    return replace(board, unscored=told)


def public_board_of(challenge: Challenge, ledger: Ledger) -> Leaderboard | None:
    """The board of the last public phase, in the challenge's order, that was scored; None if none was."""
    scores = queries.scores(ledger)
    evaluations = queries.evaluations(ledger)
    with_scores = {score.evaluation for score in scores}
    scored = {row.phase for row in evaluations if row.evaluation in with_scores}
    names = [name for name, phase in challenge.phases.items() if phase.visibility == "public"]
    shown = [name for name in names if name in scored]
    if not shown:
        return None
    metrics = chosen_metrics(metric_in_force(challenge, ledger, shown[-1]))
    return leaderboard(shown[-1], metrics, evaluations, scores, rulings=list(queries.taken_off(ledger).values()))
