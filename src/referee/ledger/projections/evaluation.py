"""What becomes of evaluations and their attempts."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from referee.ledger import events
from referee.ledger.chain import Link, canonical_json, format_time
from referee.ledger.projections.application import (
    EVALUATION,
    EVALUATION_ROW,
    KEY,
    PHASE,
    PHASE_ROW,
    SERIES_ROW,
    SUBMISSION_ROW,
    add,
    applies,
    as_text,
    change,
    evaluation_of,
    find,
    refuse,
)
from referee.ledger.schema import ATTEMPTS, EVALUATIONS, SERIES, SUBMISSIONS
from referee.verdicts import Blame, Verdict, blame

_WAITING_EVALUATION = EVALUATION.where(EVALUATIONS.c.verdict.is_(None), EVALUATIONS.c.open_attempt.is_(None))
_READY_EVALUATION = _WAITING_EVALUATION.where(EVALUATIONS.c.attempts == bindparam("earlier"))
_EVALUATION_OF_ATTEMPT = update(EVALUATIONS).where(
    EVALUATIONS.c.evaluation == select(ATTEMPTS.c.evaluation).where(ATTEMPTS.c.attempt == KEY).scalar_subquery()
)
_ATTEMPT = update(ATTEMPTS).where(ATTEMPTS.c.attempt == KEY)
_OPEN_ATTEMPT = _ATTEMPT.where(ATTEMPTS.c.ended_seq.is_(None))
_ATTEMPT_ROW = select(ATTEMPTS).where(ATTEMPTS.c.attempt == KEY)
_SUBMISSION_ROW_WHOLE = select(SUBMISSIONS).where(SUBMISSIONS.c.submission == KEY)


@applies(events.EvaluationRequested)
def _evaluation_requested(connection: Connection, link: Link, event: events.EvaluationRequested) -> None:
    if evaluation_of(connection, event.submission, event.phase, event.series):
        raise refuse(link, f"{event.submission} on {event.phase} was requested before")
    if not find(connection, SUBMISSION_ROW, event.submission):
        raise refuse(link, f"there is no submission {event.submission}")
    if not find(connection, PHASE_ROW, event.phase):
        raise refuse(link, f"the data of the phase {event.phase} was never recorded")
    if event.series:
        series = find(connection, SERIES_ROW, event.series)
        if series is None or series.phase != event.phase or event.submission not in json.loads(series.submissions):
            raise refuse(link, f"no series {event.series} was started that has {event.submission} on {event.phase}")
    add(
        connection,
        EVALUATIONS,
        evaluation=event.evaluation,
        submission=event.submission,
        phase=event.phase,
        position=event.order,
        round=1,
        attempts=0,
        reason="",
        requested_at=link.time,
        series=event.series,
    )


@applies(events.AttemptPlanned)
def _attempt_planned(connection: Connection, link: Link, event: events.AttemptPlanned) -> None:
    counted = {"open_attempt": event.attempt, "attempts": event.number}
    if not change(connection, _READY_EVALUATION, event.evaluation, earlier=event.number - 1, **counted):
        raise refuse(
            link, f"{event.evaluation} does not wait for attempt {event.number} (it has ended, runs, or is elsewhere)"
        )
    evaluation = find(connection, EVALUATION_ROW, event.evaluation)
    this_round = evaluation.round if evaluation else 1
    values = event.model_dump()
    add(connection, ATTEMPTS, round=this_round, planned_at=link.time, planned_seq=link.seq, **values)


@applies(events.AttemptSubmitted)
def _attempt_submitted(connection: Connection, link: Link, event: events.AttemptSubmitted) -> None:
    if not change(connection, _OPEN_ATTEMPT, event.attempt, handle=event.handle, submitted_at=link.time):
        raise refuse(link, f"{event.attempt} is not open")


@applies(events.AttemptEnded)
def _attempt_ended(connection: Connection, link: Link, event: events.AttemptEnded) -> None:
    if event.verdict is Verdict.OK and event.predictions_digest is None:
        raise refuse(link, f"{event.attempt} ended as ok without predictions")
    values = event.model_dump(exclude={"attempt", "measurements", "started_at", "ended_at"})
    values["measurements"] = event.measurements and canonical_json(event.measurements.model_dump(mode="json"))
    values["started_at"] = event.started_at and format_time(event.started_at)
    values["ended_at"] = event.ended_at and format_time(event.ended_at)
    if not change(connection, _OPEN_ATTEMPT, event.attempt, ended_seq=link.seq, **values):
        raise refuse(link, f"{event.attempt} is not open")
    closed = {"open_attempt": None, "last_verdict": event.verdict.value}
    change(connection, _EVALUATION_OF_ATTEMPT, event.attempt, **closed)


@applies(events.AttemptFenced)
def _attempt_fenced(connection: Connection, link: Link, event: events.AttemptFenced) -> None:
    if not change(connection, _ATTEMPT, event.attempt, fenced=event.reason):
        raise refuse(link, f"there is no attempt {event.attempt}")


@applies(events.EvaluationEnded)
def _evaluation_ended(connection: Connection, link: Link, event: events.EvaluationEnded) -> None:
    predictions = None
    if event.copied_from is not None:
        predictions = _original(connection, link, event).predictions_digest
    elif event.attempt is not None:
        found = find(connection, _ATTEMPT_ROW, event.attempt)
        if found is None or found.evaluation != event.evaluation or found.verdict != event.verdict:
            raise refuse(link, f"{event.attempt} is not an attempt of it that ended as {event.verdict}")
        if found.smoke and event.verdict is Verdict.OK:
            raise refuse(link, f"{event.attempt} was a smoke run, which gives no result")
        predictions = found.predictions_digest
    elif event.verdict is Verdict.OK:
        raise refuse(link, "a valid result needs the attempt that gave it")
    if event.verdict is Verdict.OK and event.final is False:
        raise refuse(link, "the first valid result is final")
    stands = event.verdict is Verdict.OK or blame(event.verdict) is Blame.SUBMISSION
    ending = {
        "verdict": event.verdict.value,
        "final": stands if event.final is None else event.final,
        "attempt": event.attempt,
        "reason": event.reason,
        "ended_at": link.time,
        "predictions_digest": predictions if event.verdict is Verdict.OK else None,
        "copied_from": event.copied_from,
    }
    if not change(connection, _WAITING_EVALUATION, event.evaluation, **ending):
        raise refuse(link, f"{event.evaluation} has ended before, has an open attempt, or was never requested")


def _original(connection: Connection, link: Link, event: events.EvaluationEnded) -> Row[Any]:
    """The evaluation that was run instead of this one: of the same image and kind, on the same phase, and ended so."""
    rows = [find(connection, EVALUATION_ROW, str(name)) for name in (event.copied_from, event.evaluation)]
    original, copy = rows
    if original is None or copy is None or original.evaluation == copy.evaluation or original.copied_from is not None:
        raise refuse(link, f"{event.copied_from} is not an evaluation that another can be copied from")
    ran, same = (find(connection, _SUBMISSION_ROW_WHOLE, row.submission) for row in (original, copy))
    if ran is None or same is None or (ran.image, ran.kind, original.phase) != (same.image, same.kind, copy.phase):
        raise refuse(link, f"{event.copied_from} is not of the same image, kind and phase")
    if (original.verdict, original.attempt) != (event.verdict.value, event.attempt):
        raise refuse(link, f"{event.copied_from} did not end so")
    return original


@applies(events.EvaluationReopened)
def _evaluation_reopened(connection: Connection, link: Link, event: events.EvaluationReopened) -> None:
    old = find(connection, EVALUATION_ROW, event.evaluation)
    if old is None or old.verdict is None:
        raise refuse(link, f"{event.evaluation} has not ended")
    if old.final:
        raise refuse(link, f"{event.evaluation} ended as {old.verdict}, which is final")
    fresh = {"verdict": None, "final": None, "attempt": None, "ended_at": None, "reason": event.reason}
    fresh["copied_from"] = None
    change(connection, EVALUATION, event.evaluation, round=old.round + 1, **fresh)
    change(connection, PHASE, old.phase, finished_at=None)


@applies(events.SeriesStarted)
def _series_started(connection: Connection, link: Link, event: events.SeriesStarted) -> None:
    if find(connection, SERIES_ROW, event.series):
        raise refuse(link, f"a series {event.series} was started before")
    values = event.model_dump(exclude={"submissions", "limits"})
    values["submissions"] = canonical_json(list(event.submissions))
    values["limits"] = event.limits and as_text(event.limits)
    add(connection, SERIES, seq=link.seq, **values)
