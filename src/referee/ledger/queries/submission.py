"""Submissions: what was imported and refused, what was ruled about it, and the names behind it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from referee.ledger.identities import Identity
from referee.ledger.queries.reading import read_rows
from referee.ledger.schema import IDENTITIES, REFUSALS, RULINGS, SUBMISSIONS
from referee.ledger.store import Ledger
from referee.rulings import Ruling


@dataclass(frozen=True, slots=True)
class SubmissionRow:
    """A submission under its blind ids."""

    submission: str
    team: str
    kind: str
    image: str
    public_score: float | None
    public_runtime_seconds: float | None
    same_image_as: str | None


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """A submission whose image was refused at import, and why."""

    submission: str
    team: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class RulingRow:
    """What was decided about a submission by hand."""

    seq: int
    submission: str
    team: str
    ruling: Ruling
    reason: str
    ruled_at: datetime


def submissions(ledger: Ledger) -> tuple[SubmissionRow, ...]:
    """All submissions, in the order of their import."""
    columns = [column for column in SUBMISSIONS.c if column.name not in {"identity_commitment", "seq"}]
    return read_rows(ledger, select(*columns).order_by(SUBMISSIONS.c.seq), SubmissionRow)


def refusals(ledger: Ledger) -> tuple[RefusalRow, ...]:
    """Submissions whose images were refused, in the order of their refusal."""
    columns = [column for column in REFUSALS.c if column.name not in {"identity_commitment", "seq"}]
    return read_rows(ledger, select(*columns).order_by(REFUSALS.c.seq), RefusalRow)


def rulings(ledger: Ledger) -> tuple[RulingRow, ...]:
    """Every ruling, in order."""
    query = select(RULINGS, SUBMISSIONS.c.team).join(SUBMISSIONS).order_by(RULINGS.c.seq)
    return read_rows(ledger, query, RulingRow)


def taken_off(ledger: Ledger) -> dict[str, RulingRow]:
    """The submissions that are disqualified or withdrawn now, each with the ruling that keeps it off the board."""
    found: dict[str, RulingRow] = {}
    for row in rulings(ledger):
        if row.ruling is Ruling.REINSTATE:
            found.pop(row.submission, None)
        elif row.ruling is not Ruling.ADMIT:
            found[row.submission] = row
    return found


def names(ledger: Ledger, submissions: Collection[str]) -> dict[str, Identity]:
    """The names behind blind submission ids. Whoever shows them records `identities.unblinded` first."""
    wanted = set(submissions)
    with ledger.read() as connection:
        # All are read and then chosen from: a list of thousands would not fit into one statement's parameters.
        rows = connection.execute(select(IDENTITIES).order_by(IDENTITIES.c.submission)).all()
    return {
        row.submission: Identity(row.submission, row.team, row.submission_name, row.team_name, row.salt)
        for row in rows
        if row.submission in wanted
    }
