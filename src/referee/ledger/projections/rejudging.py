"""What becomes of rejudgings: staged without effect, then applied as a whole, or cancelled."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from referee.ledger import events
from referee.ledger.chain import Link, canonical_json
from referee.ledger.projections.application import (
    EVALUATION,
    KEY,
    PHASE,
    REJUDGING_ROW,
    add,
    applies,
    as_text,
    change,
    evaluation_of,
    find,
    refuse,
)
from referee.ledger.projections.score import refuse_sealed
from referee.ledger.schema import EVALUATIONS, REJUDGINGS, SCORES

_STAGED = select(REJUDGINGS.c.rejudging).where(REJUDGINGS.c.state == "staged").limit(1)
_REJUDGING = update(REJUDGINGS).where(REJUDGINGS.c.rejudging == KEY)
_STANDING_SCORES = delete(SCORES).where(SCORES.c.evaluation == KEY, SCORES.c.rejudging == "")
_SCORES_OF = select(SCORES).where(SCORES.c.evaluation == KEY, SCORES.c.rejudging == bindparam("rejudging"))
_SCORED_OTHERWISE = (
    select(SCORES.c.evaluation)
    .join(EVALUATIONS)
    .where(
        EVALUATIONS.c.phase == KEY,
        EVALUATIONS.c.series == "",
        SCORES.c.rejudging == "",
        (SCORES.c.labels_digest != bindparam("labels")) | (SCORES.c.epsilon != bindparam("epsilon")),
    )
    .limit(1)
)


@applies(events.RejudgingStaged)
def _rejudging_staged(connection: Connection, link: Link, event: events.RejudgingStaged) -> None:
    if find(connection, REJUDGING_ROW, event.rejudging):
        raise refuse(link, f"{event.rejudging} was staged before")
    refuse_sealed(connection, link, event.phase)
    if connection.execute(_STAGED).first():
        raise refuse(link, "another rejudging is staged")
    values = event.model_dump(exclude={"submissions", "metric"})
    values |= {"submissions": canonical_json(list(event.submissions)), "metric": as_text(event.metric)}
    add(connection, REJUDGINGS, seq=link.seq, state="staged", reason="", staged_at=link.time, **values)


def _staged(connection: Connection, link: Link, rejudging: str) -> Row[Any]:
    row = find(connection, REJUDGING_ROW, rejudging)
    if row is None or row.state != "staged":
        raise refuse(link, f"{rejudging} is not staged")
    return row


@applies(events.RejudgingCancelled)
def _rejudging_cancelled(connection: Connection, link: Link, event: events.RejudgingCancelled) -> None:
    _staged(connection, link, event.rejudging)
    change(connection, _REJUDGING, event.rejudging, state="cancelled", reason=event.reason, closed_at=link.time)


@applies(events.RejudgingApplied)
def _rejudging_applied(connection: Connection, link: Link, event: events.RejudgingApplied) -> None:
    staged = _staged(connection, link, event.rejudging)
    for submission in json.loads(staged.submissions):
        official = evaluation_of(connection, submission, staged.phase, "")
        if official is None or official.verdict is None:
            raise refuse(link, f"the evaluation of {submission} on {staged.phase} has not ended")
        if staged.method == "rescore":
            _replace_scores(connection, official.evaluation, official.evaluation, event.rejudging)
        else:
            _take_over(
                connection, link, official, evaluation_of(connection, submission, staged.phase, staged.rejudging)
            )
    metric = json.loads(staged.metric)
    change(connection, PHASE, staged.phase, scoring=staged.metric, labels_digest=staged.labels_digest)
    other = {"key": staged.phase, "labels": staged.labels_digest, "epsilon": repr(float(metric["epsilon"]))}
    if (left := connection.execute(_SCORED_OTHERWISE, other).first()) is not None:
        raise refuse(link, f"{left.evaluation} would keep a score under other labels or another epsilon")
    closed = {"state": "applied", "reason": event.reason, "after": event.after, "closed_at": link.time}
    change(connection, _REJUDGING, event.rejudging, **closed)


def _take_over(connection: Connection, link: Link, official: Row[Any], run: Row[Any] | None) -> None:
    """Let an evaluation rest on its further run; one that ended by no doing of the submission changes nothing."""
    if run is None or run.verdict is None:
        raise refuse(link, f"the further run of {official.evaluation} has not ended")
    if not run.final:
        return
    taken = ("verdict", "final", "attempt", "reason", "ended_at", "predictions_digest", "last_verdict")
    change(connection, EVALUATION, official.evaluation, **{name: getattr(run, name) for name in taken})
    _replace_scores(connection, official.evaluation, run.evaluation, "")


def _replace_scores(connection: Connection, evaluation: str, source: str, rejudging: str) -> None:
    found = [row._asdict() for row in connection.execute(_SCORES_OF, {"key": source, "rejudging": rejudging})]
    connection.execute(_STANDING_SCORES, {"key": evaluation})
    for row in found:
        add(connection, SCORES, **(row | {"evaluation": evaluation, "rejudging": ""}))
