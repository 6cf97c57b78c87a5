"""Which evaluations are wanted on a phase, and which are held back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from referee.challenge import Challenge
from referee.ledger import EvaluationHeld, EvaluationRequested, Ledger, queries
from referee.orders import dispatch_order


def to_be_held(ledger: Ledger, phase: str, held: Mapping[str, str]) -> list[EvaluationHeld]:
    """What is held back, with the reason, and is neither evaluated nor known to be held for that reason yet."""
    known = queries.held(ledger, phase)
    evaluated = {row.submission for row in queries.evaluations(ledger, phase)}
    return [
        EvaluationHeld(submission=submission, phase=phase, reason=reason)
        for submission, reason in held.items()
        if known.get(submission) != reason and submission not in evaluated
    ]


def to_be_requested(
    ledger: Ledger,
    challenge: Challenge,
    phase: str,
    series: queries.SeriesRow | None,
    held: Collection[str],
) -> list[EvaluationRequested]:
    """The evaluations that are wanted and were not requested yet, in the order of dispatch.

    Those of a series of further runs, or of every submission that is neither off the board nor held back.
    """
    name = series.series if series else ""
    asked = {row.submission for row in queries.evaluations(ledger, phase, series=name)}
    rows = queries.submissions(ledger)
    if series is not None:
        wanted = [row for row in rows if row.submission in series.submissions]
    else:
        off = queries.taken_off(ledger)
        wanted = [row for row in rows if row.submission not in off and row.submission not in held]
    fresh = [row for row in wanted if row.submission not in asked]
    ordered = dispatch_order(fresh, challenge.engine.order, challenge.engine.seed)
    return [
        EvaluationRequested(
            evaluation=".".join(filter(None, (row.submission, phase, name))),
            submission=row.submission,
            phase=phase,
            order=len(asked) + place,
            series=name,
        )
        for place, row in enumerate(ordered)
    ]
