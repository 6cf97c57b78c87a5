"""The boards that follow from a ledger and a challenge: the one function behind every board that is shown or checked.

The command line and the report ask it with the operator's ledger; the auditor's `referee verify` asks it with a ledger
that was built again from a bundle's chain.
"""

from __future__ import annotations

from referee.challenge import Challenge
from referee.ledger import Ledger, queries
from referee.scoring.leaderboard import Leaderboard, leaderboard
from referee.scoring.metric import chosen_metrics, constant_half


def board_of(challenge: Challenge, ledger: Ledger, phase: str) -> Leaderboard:
    """The leaderboard of a phase; beside a private phase the last public one that was scored."""
    metrics = chosen_metrics(challenge.metric)
    return leaderboard(
        phase,
        metrics,
        queries.evaluations(ledger),
        queries.scores(ledger),
        reference_score=constant_half(metrics[0]),
        public=public_board_of(challenge, ledger) if challenge.phase(phase).visibility == "private" else None,
        refusals=queries.refusals(ledger),
    )


def public_board_of(challenge: Challenge, ledger: Ledger) -> Leaderboard | None:
    """The board of the last public phase, in the challenge's order, that was scored; None if none was."""
    scores = queries.scores(ledger)
    evaluations = queries.evaluations(ledger)
    with_scores = {score.evaluation for score in scores}
    scored = {row.phase for row in evaluations if row.evaluation in with_scores}
    names = [name for name, phase in challenge.phases.items() if phase.visibility == "public"]
    shown = [name for name in names if name in scored]
    return leaderboard(shown[-1], chosen_metrics(challenge.metric), evaluations, scores) if shown else None
