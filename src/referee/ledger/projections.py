"""What the events add up to: tables that answer questions quickly, and that can be built again from the chain.

`apply` is called inside the transaction that appends the event. It is also where a history that makes no sense is
refused (an attempt that ends twice, a second open attempt of one evaluation, a score without a valid result): then
nothing is written, so a defect or a second controller cannot run or score anything twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, insert, select, update

from referee.errors import LedgerError
from referee.ledger import events
from referee.ledger.chain import Link, canonical_json, format_time
from referee.ledger.schema import ATTEMPTS, CONTROLLERS, EVALUATIONS, NODES, PHASES, PROJECTIONS, SCORES, SUBMISSIONS
from referee.verdicts import Blame, Verdict, blame

E = TypeVar("E", bound=events.Event)
Apply = Callable[[Connection, Link, Any], None]

_APPLY: dict[type[events.Event], Apply] = {}


def apply(connection: Connection, link: Link, event: events.Event) -> None:
    """Bring the projections from the state before `event` to the state after it.

    Raises:
        LedgerError: if the event does not fit what happened before it.
    """
    function = _APPLY.get(type(event))
    if function is not None:
        function(connection, link, event)


def clear(connection: Connection) -> None:
    """Empty every projection."""
    for table in reversed(PROJECTIONS):
        connection.execute(table.delete())


def contents(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every projection, in the order of the primary keys; for comparing two states."""
    return {
        table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
        for table in PROJECTIONS
    }


def _applies(kind: type[E]) -> Callable[[Callable[[Connection, Link, E], None]], Callable[[Connection, Link, E], None]]:
    def register(function: Callable[[Connection, Link, E], None]) -> Callable[[Connection, Link, E], None]:
        _APPLY[kind] = function
        return function

    return register


def _refuse(link: Link, why: str) -> LedgerError:
    return LedgerError(
        f"The event {link.kind} does not fit what the ledger holds: {why}.",
        hint="Nothing was written. If nobody edited the ledger, this is a defect of Referee: please report it.",
    )


def _change(connection: Connection, table: Table, where: ColumnElement[bool], **values: Any) -> bool:
    return connection.execute(update(table).where(where).values(values)).rowcount == 1


# Controllers, phases, submissions, nodes


@_applies(events.ControllerStarted)
def _controller_started(connection: Connection, link: Link, event: events.ControllerStarted) -> None:
    connection.execute(
        insert(CONTROLLERS).values(
            epoch=event.epoch, host=event.host, pid=event.pid, boot_id=event.boot_id, started_at=link.time
        )
    )


@_applies(events.ControllerStopped)
def _controller_stopped(connection: Connection, link: Link, event: events.ControllerStopped) -> None:
    running = and_(CONTROLLERS.c.epoch == event.epoch, CONTROLLERS.c.stopped_at.is_(None))
    if not _change(connection, CONTROLLERS, running, stopped_at=link.time, stop_reason=event.reason):
        raise _refuse(link, f"controller {event.epoch} does not run")


@_applies(events.PhaseRecorded)
def _phase_recorded(connection: Connection, link: Link, event: events.PhaseRecorded) -> None:
    old = connection.execute(select(PHASES).where(PHASES.c.phase == event.phase)).one_or_none()
    facts = {"data_digest": event.data_digest, "files": event.files, "labels_digest": event.labels_digest}
    if old is None:
        connection.execute(insert(PHASES).values(phase=event.phase, **facts))
        return
    of_phase = EVALUATIONS.c.phase == event.phase
    if old.data_digest != event.data_digest and _any(connection, select(EVALUATIONS.c.evaluation).where(of_phase)):
        raise _refuse(link, f"the data of {event.phase} changed after evaluations on it were requested")
    scored = select(SCORES.c.evaluation).join(EVALUATIONS).where(of_phase)
    if old.labels_digest not in {None, event.labels_digest} and _any(connection, scored):
        raise _refuse(link, f"the labels of {event.phase} changed after evaluations on it were scored")
    _change(connection, PHASES, PHASES.c.phase == event.phase, **facts)


def _any(connection: Connection, query: Any) -> bool:
    return connection.execute(query.limit(1)).first() is not None


@_applies(events.CampaignFinished)
def _campaign_finished(connection: Connection, link: Link, event: events.CampaignFinished) -> None:
    open_ones = select(EVALUATIONS.c.evaluation).where(
        EVALUATIONS.c.phase == event.phase, EVALUATIONS.c.verdict.is_(None)
    )
    if _any(connection, open_ones):
        raise _refuse(link, f"some evaluations on {event.phase} have not ended")
    _change(connection, PHASES, PHASES.c.phase == event.phase, finished_at=link.time)


@_applies(events.SubmissionImported)
def _submission_imported(connection: Connection, link: Link, event: events.SubmissionImported) -> None:
    if _any(connection, select(SUBMISSIONS.c.submission).where(SUBMISSIONS.c.submission == event.submission)):
        raise _refuse(link, f"{event.submission} was imported before")
    values = event.model_dump(exclude={"submission_kind"})
    connection.execute(insert(SUBMISSIONS).values(kind=event.submission_kind, seq=link.seq, **values))


def _note_node(connection: Connection, link: Link, node: str, **values: Any) -> None:
    if not _change(connection, NODES, NODES.c.node == node, seq=link.seq, **values):
        fresh = {"quarantined": False, "reason": "", "released_seq": 0} | values
        connection.execute(insert(NODES).values(node=node, seq=link.seq, **fresh))


@_applies(events.NodeProved)
def _node_proved(connection: Connection, link: Link, event: events.NodeProved) -> None:
    _note_node(connection, link, event.node, boot_id=event.boot_id, level=event.level, proved=True)


@_applies(events.NodeRefused)
def _node_refused(connection: Connection, link: Link, event: events.NodeRefused) -> None:
    _note_node(
        connection, link, event.node, boot_id=event.boot_id, level=event.level, proved=False, reason=event.reason
    )


@_applies(events.NodeQuarantined)
def _node_quarantined(connection: Connection, link: Link, event: events.NodeQuarantined) -> None:
    _note_node(connection, link, event.node, quarantined=True, reason=event.reason)


@_applies(events.NodeReleased)
def _node_released(connection: Connection, link: Link, event: events.NodeReleased) -> None:
    _note_node(connection, link, event.node, quarantined=False, reason=event.reason, released_seq=link.seq)


# Evaluations and attempts


@_applies(events.EvaluationRequested)
def _evaluation_requested(connection: Connection, link: Link, event: events.EvaluationRequested) -> None:
    same = and_(EVALUATIONS.c.submission == event.submission, EVALUATIONS.c.phase == event.phase)
    if _any(connection, select(EVALUATIONS.c.evaluation).where(same)):
        raise _refuse(link, f"{event.submission} on {event.phase} was requested before")
    if not _any(connection, select(SUBMISSIONS.c.submission).where(SUBMISSIONS.c.submission == event.submission)):
        raise _refuse(link, f"there is no submission {event.submission}")
    if not _any(connection, select(PHASES.c.phase).where(PHASES.c.phase == event.phase)):
        raise _refuse(link, f"the data of the phase {event.phase} was never recorded")
    connection.execute(
        insert(EVALUATIONS).values(
            evaluation=event.evaluation,
            submission=event.submission,
            phase=event.phase,
            position=event.order,
            round=1,
            attempts=0,
            reason="",
            requested_at=link.time,
        )
    )


@_applies(events.AttemptPlanned)
def _attempt_planned(connection: Connection, link: Link, event: events.AttemptPlanned) -> None:
    ready = and_(
        EVALUATIONS.c.evaluation == event.evaluation,
        EVALUATIONS.c.verdict.is_(None),
        EVALUATIONS.c.open_attempt.is_(None),
        EVALUATIONS.c.attempts == event.number - 1,
    )
    if not _change(connection, EVALUATIONS, ready, open_attempt=event.attempt, attempts=event.number):
        raise _refuse(
            link, f"{event.evaluation} does not wait for attempt {event.number} (it has ended, runs, or is elsewhere)"
        )
    of_evaluation = select(EVALUATIONS.c.round).where(EVALUATIONS.c.evaluation == event.evaluation)
    connection.execute(
        insert(ATTEMPTS).values(
            round=connection.execute(of_evaluation).scalar_one(),
            planned_at=link.time,
            planned_seq=link.seq,
            **event.model_dump(),
        )
    )


@_applies(events.AttemptSubmitted)
def _attempt_submitted(connection: Connection, link: Link, event: events.AttemptSubmitted) -> None:
    is_open = and_(ATTEMPTS.c.attempt == event.attempt, ATTEMPTS.c.ended_seq.is_(None))
    if not _change(connection, ATTEMPTS, is_open, handle=event.handle, submitted_at=link.time):
        raise _refuse(link, f"{event.attempt} is not open")


@_applies(events.AttemptEnded)
def _attempt_ended(connection: Connection, link: Link, event: events.AttemptEnded) -> None:
    if event.verdict is Verdict.OK and event.predictions_digest is None:
        raise _refuse(link, f"{event.attempt} ended as ok without predictions")
    values = event.model_dump(exclude={"attempt", "measurements", "started_at", "ended_at"})
    values["measurements"] = event.measurements and canonical_json(event.measurements.model_dump(mode="json"))
    values["started_at"] = event.started_at and format_time(event.started_at)
    values["ended_at"] = event.ended_at and format_time(event.ended_at)
    is_open = and_(ATTEMPTS.c.attempt == event.attempt, ATTEMPTS.c.ended_seq.is_(None))
    if not _change(connection, ATTEMPTS, is_open, ended_seq=link.seq, **values):
        raise _refuse(link, f"{event.attempt} is not open")
    _change(
        connection,
        EVALUATIONS,
        EVALUATIONS.c.open_attempt == event.attempt,
        open_attempt=None,
        last_verdict=event.verdict.value,
    )


@_applies(events.AttemptFenced)
def _attempt_fenced(connection: Connection, link: Link, event: events.AttemptFenced) -> None:
    if not _change(connection, ATTEMPTS, ATTEMPTS.c.attempt == event.attempt, fenced=event.reason):
        raise _refuse(link, f"there is no attempt {event.attempt}")


@_applies(events.EvaluationEnded)
def _evaluation_ended(connection: Connection, link: Link, event: events.EvaluationEnded) -> None:
    predictions = None
    if event.attempt is not None:
        found = connection.execute(select(ATTEMPTS).where(ATTEMPTS.c.attempt == event.attempt)).one_or_none()
        if found is None or found.evaluation != event.evaluation or found.verdict != event.verdict:
            raise _refuse(link, f"{event.attempt} is not an attempt of it that ended as {event.verdict}")
        predictions = found.predictions_digest
    elif event.verdict is Verdict.OK:
        raise _refuse(link, "a valid result needs the attempt that gave it")
    waits = and_(
        EVALUATIONS.c.evaluation == event.evaluation,
        EVALUATIONS.c.verdict.is_(None),
        EVALUATIONS.c.open_attempt.is_(None),
    )
    ending = {
        "verdict": event.verdict.value,
        "attempt": event.attempt,
        "reason": event.reason,
        "ended_at": link.time,
        "predictions_digest": predictions if event.verdict is Verdict.OK else None,
    }
    if not _change(connection, EVALUATIONS, waits, **ending):
        raise _refuse(link, f"{event.evaluation} has ended before, has an open attempt, or was never requested")


@_applies(events.EvaluationReopened)
def _evaluation_reopened(connection: Connection, link: Link, event: events.EvaluationReopened) -> None:
    old = connection.execute(select(EVALUATIONS).where(EVALUATIONS.c.evaluation == event.evaluation)).one_or_none()
    if old is None or old.verdict is None:
        raise _refuse(link, f"{event.evaluation} has not ended")
    if old.verdict == Verdict.OK or blame(Verdict(old.verdict)) is Blame.SUBMISSION:
        raise _refuse(link, f"{event.evaluation} ended as {old.verdict}, which is final")
    _change(
        connection,
        EVALUATIONS,
        EVALUATIONS.c.evaluation == event.evaluation,
        round=old.round + 1,
        verdict=None,
        attempt=None,
        ended_at=None,
        reason=event.reason,
    )
    _change(connection, PHASES, PHASES.c.phase == old.phase, finished_at=None)


@_applies(events.EvaluationScored)
def _evaluation_scored(connection: Connection, link: Link, event: events.EvaluationScored) -> None:
    found = connection.execute(select(EVALUATIONS).where(EVALUATIONS.c.evaluation == event.evaluation)).one_or_none()
    if found is None or found.verdict != Verdict.OK or found.predictions_digest != event.predictions_digest:
        raise _refuse(link, f"{event.evaluation} has no valid result with these predictions")
    labels = select(PHASES.c.labels_digest).where(PHASES.c.phase == found.phase)
    if connection.execute(labels).scalar_one() != event.labels_digest:
        raise _refuse(link, f"the labels are not those that were recorded for {found.phase}")
    known = select(SCORES.c.metric).where(SCORES.c.evaluation == event.evaluation)
    twice = set(connection.execute(known).scalars()) & set(event.scores)
    if twice:
        raise _refuse(link, f"{event.evaluation} was scored before by {', '.join(sorted(twice))}")
    values = event.model_dump(exclude={"scores"}) | {"seq": link.seq}
    connection.execute(
        insert(SCORES), [values | {"metric": metric, "value": value} for metric, value in event.scores.items()]
    )
