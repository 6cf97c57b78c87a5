"""Evaluations: a submission on a phase, how far it is, and what it is held back for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from referee.ledger.events import EvaluationHeld
from referee.ledger.queries.reading import read_rows
from referee.ledger.schema import EVALUATIONS, SUBMISSIONS
from referee.ledger.store import Ledger
from referee.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Status:
    """How far a phase is. `verdicts` counts the evaluations that have ended, by verdict."""

    total: int
    done: int
    running: int
    waiting: int
    verdicts: dict[Verdict, int]


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A submission on a phase.

    Attributes:
        order: its place in the order of dispatch.
        round: 1, and one more for each time that the operator reopened it.
        attempts: how many were planned, over all rounds.
        open_attempt: the one that is planned or runs now.
        last_verdict: of the last attempt that ended.
        verdict: of the evaluation; None while it has not ended.
        final: whether the verdict stands for good, or the evaluation may be reopened; None while it has not ended.
        attempt: the one that the verdict rests on.
        predictions_digest: of the accepted predictions; None unless the verdict is ok.
        copied_from: the evaluation of the same image that was run in its stead; None if it was run itself.
        series: the series of further runs that it belongs to; empty for the official evaluation.
    """

    evaluation: str
    submission: str
    team: str
    submission_kind: str
    image: str
    phase: str
    order: int
    round: int
    attempts: int
    open_attempt: str | None
    last_verdict: Verdict | None
    verdict: Verdict | None
    final: bool | None
    attempt: str | None
    reason: str
    requested_at: datetime
    ended_at: datetime | None
    predictions_digest: str | None
    copied_from: str | None = None
    series: str = ""


def status(ledger: Ledger, phase: str, series: str = "") -> Status:
    """How many evaluations of a phase (or of a series on it) there are, have ended, run, and wait."""
    state = (EVALUATIONS.c.verdict, EVALUATIONS.c.open_attempt.is_not(None))
    mine = (EVALUATIONS.c.phase == phase, EVALUATIONS.c.series == series)
    query = select(*state, func.count()).where(*mine).group_by(*state)
    verdicts: dict[Verdict, int] = {}
    running = waiting = 0
    with ledger.read() as connection:
        for verdict, is_open, count in connection.execute(query):
            if verdict is not None:
                verdicts[Verdict(verdict)] = count
            elif is_open:
                running += count
            else:
                waiting += count
    done = sum(verdicts.values())
    ordered = {verdict: verdicts[verdict] for verdict in Verdict if verdict in verdicts}
    return Status(done + running + waiting, done, running, waiting, ordered)


_EVALUATION = (
    SUBMISSIONS.c.team,
    SUBMISSIONS.c.kind.label("submission_kind"),
    SUBMISSIONS.c.image,
    EVALUATIONS.c.position.label("order"),
    *(column for column in EVALUATIONS.c if column.name != "position"),
)


def evaluations(ledger: Ledger, phase: str | None = None, series: str | None = "") -> tuple[EvaluationRow, ...]:
    """Evaluations of a phase (or of all), in the order of dispatch.

    Those of a series of further runs if one is named, the official ones and those of all series with `series=None`.
    """
    query = select(*_EVALUATION).join(SUBMISSIONS)
    query = query.order_by(EVALUATIONS.c.phase, EVALUATIONS.c.series, EVALUATIONS.c.position)
    if series is not None:
        query = query.where(EVALUATIONS.c.series == series)
    return read_rows(ledger, query if phase is None else query.where(EVALUATIONS.c.phase == phase), EvaluationRow)


def held(ledger: Ledger, phase: str) -> dict[str, str]:
    """Submissions that are not evaluated on a phase because they did not reproduce, with the reason."""
    events = (recorded.event for recorded in ledger.events(EvaluationHeld))
    reasons = {e.submission: e.reason for e in events if isinstance(e, EvaluationHeld) and e.phase == phase}
    asked = {row.submission for row in evaluations(ledger, phase)} if reasons else set()
    return {submission: reason for submission, reason in reasons.items() if submission not in asked}
