"""Scores: those that stand, those that are sealed, and what they stand under."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select

from referee.challenge import MetricChoice
from referee.ledger.events import ChallengeRecorded, EvaluationScored
from referee.ledger.queries.conduct import phases
from referee.ledger.queries.reading import read_rows
from referee.ledger.schema import EVALUATIONS, SCORES, SEALED_SCORES, SEALS
from referee.ledger.seals import PublicBoardRecorded
from referee.ledger.store import Ledger


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """An evaluation's score by one metric; `value` is the recorded float.

    `epsilon` is the metrics' clipping, as the text of a float; None where it was not kept.
    """

    evaluation: str
    submission: str
    metric: str
    value: float
    predictions_digest: str
    labels_digest: str
    scorer_version: str
    epsilon: str | None = None


@dataclass(frozen=True, slots=True)
class SealRow:
    """A phase that is sealed, or was; `reason` is of the last change."""

    phase: str
    sealed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class SealedRow:
    """Scores that were sealed (`seals.EvaluationSealed`); `metrics` is a JSON list, `seq` the event's number."""

    seq: int
    evaluation: str
    metrics: str
    commitment: str
    sealed: str
    opened: bool


def scores(ledger: Ledger, phase: str | None = None, *, series: str = "", rejudging: str = "") -> tuple[ScoreRow, ...]:
    """Scores of a phase (or of all), by evaluation and metric: those that stand.

    Args:
        ledger: the ledger.
        phase: of which phase.
        series: scores of the evaluations of this series of further runs instead of the official ones.
        rejudging: scores that are staged under this rejudging instead.
    """
    wanted = ("metric", "value", "predictions_digest", "labels_digest", "scorer_version", "epsilon")
    query = (
        select(SCORES.c.evaluation, EVALUATIONS.c.submission, *(SCORES.c[name] for name in wanted))
        .join(EVALUATIONS)
        .where(EVALUATIONS.c.series == series, SCORES.c.rejudging == rejudging)
        .order_by(SCORES.c.evaluation, SCORES.c.metric)
    )
    return read_rows(ledger, query if phase is None else query.where(EVALUATIONS.c.phase == phase), ScoreRow)


def scoring(ledger: Ledger, phase: str) -> MetricChoice | None:
    """The choice of metrics that the scores of a phase stand under; None while there are none."""
    row = phases(ledger).get(phase)
    if row is None or row.scoring is not None or not scores(ledger, phase):
        return row.scoring if row else None
    # An older version of Referee scored it: then by the challenge as it was last recorded before that.
    choice = None
    found = None
    for recorded in ledger.events(ChallengeRecorded, EvaluationScored):
        if isinstance(recorded.event, ChallengeRecorded):
            choice = MetricChoice.model_validate(json.loads(recorded.event.content)["metric"])
        elif isinstance(recorded.event, EvaluationScored) and recorded.event.rejudging is None:
            # Evaluations of a series end with its name.
            found = choice if recorded.event.evaluation.endswith(f".{phase}") else found
    return found


def seals(ledger: Ledger) -> dict[str, SealRow]:
    """Phases that are or were sealed, by name."""
    columns = [column for column in SEALS.c if column.name != "seq"]
    return {row.phase: row for row in read_rows(ledger, select(*columns).order_by(SEALS.c.phase), SealRow)}


def public_ranks(ledger: Ledger) -> dict[str, int]:
    """Ranks on another platform's public leaderboard, by submission, as it was last recorded."""
    found = [recorded.event for recorded in ledger.events(PublicBoardRecorded)]
    last = found[-1] if found else None
    return {name: one.rank for name, one in last.standings.items()} if isinstance(last, PublicBoardRecorded) else {}


def sealed_scores(ledger: Ledger, phase: str) -> tuple[SealedRow, ...]:
    """What was scored while the phase was sealed, in order."""
    columns = [column for column in SEALED_SCORES.c if column.name != "opened_seq"]
    opened = SEALED_SCORES.c.opened_seq.is_not(None).label("opened")
    query = select(*columns, opened).join(EVALUATIONS).where(EVALUATIONS.c.phase == phase)
    return read_rows(ledger, query.order_by(SEALED_SCORES.c.seq), SealedRow)
