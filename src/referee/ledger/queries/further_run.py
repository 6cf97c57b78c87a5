"""Further runs beside the official evaluations: series, rejudgings, reproductions, confirmations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from referee.challenge import Limits, MetricChoice
from referee.ledger.events import ConfirmationRecorded, SubmissionReproduced
from referee.ledger.queries.reading import read_rows
from referee.ledger.schema import REJUDGINGS, SERIES
from referee.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A series of further runs of some submissions on a phase (`events.SeriesStarted`)."""

    series: str
    purpose: str
    phase: str
    submissions: tuple[str, ...]
    machine_type: str | None
    limits: Limits | None


@dataclass(frozen=True, slots=True)
class RejudgingRow:
    """A rejudging (`events.RejudgingStaged`). `state` is staged, applied or cancelled."""

    rejudging: str
    phase: str
    method: str
    submissions: tuple[str, ...]
    selection: str
    metric_choice: MetricChoice
    labels_digest: str
    before: str
    after: str | None
    state: str
    reason: str
    staged_at: datetime
    closed_at: datetime | None


def series(ledger: Ledger) -> tuple[SeriesRow, ...]:
    """Every series of further runs, in the order in which they were started."""
    columns = [column for column in SERIES.c if column.name != "seq"]
    return read_rows(ledger, select(*columns).order_by(SERIES.c.seq), SeriesRow)


def rejudgings(ledger: Ledger) -> tuple[RejudgingRow, ...]:
    """Every rejudging, in the order in which they were staged."""
    columns = [column for column in REJUDGINGS.c if column.name not in {"seq", "metric"}]
    query = select(*columns, REJUDGINGS.c.metric.label("metric_choice"))
    return read_rows(ledger, query.order_by(REJUDGINGS.c.seq), RejudgingRow)


def reproductions(ledger: Ledger, phase: str) -> dict[str, SubmissionReproduced]:
    """The last word of the reproduction check on each submission, by submission."""
    events = (recorded.event for recorded in ledger.events(SubmissionReproduced))
    return {e.submission: e for e in events if isinstance(e, SubmissionReproduced) and e.phase == phase}


def confirmations(ledger: Ledger, phase: str) -> tuple[ConfirmationRecorded, ...]:
    """What came of each time that the prize zone of a phase was run again."""
    events = (recorded.event for recorded in ledger.events(ConfirmationRecorded))
    return tuple(e for e in events if isinstance(e, ConfirmationRecorded) and e.phase == phase)
