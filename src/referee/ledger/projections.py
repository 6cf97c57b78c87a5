"""What the events add up to: tables that answer questions quickly, and that can be built again from the chain.

`apply` is called inside the transaction that appends the event. It is also where a history that makes no sense is
refused (an attempt that ends twice, a second open attempt of one evaluation, a score without a valid result): then
nothing is written, so a defect or a second controller cannot run or score anything twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Connection, Row, Select, Table, Update, bindparam, delete, insert, select, update

from referee.challenge import Frozen, MetricChoice
from referee.errors import LedgerError
from referee.ledger import events, seals
from referee.ledger.chain import Link, canonical_json, format_time
from referee.ledger.schema import (
    ATTEMPTS,
    CONTROLLERS,
    EVALUATIONS,
    NODES,
    PHASES,
    PROJECTIONS,
    REFUSALS,
    REJUDGINGS,
    RULINGS,
    SCORES,
    SEALED_SCORES,
    SEALS,
    SERIES,
    SUBMISSIONS,
)
from referee.rulings import Ruling, objection
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


# The statements are built once: building one takes longer than SQLite takes to run it. `key` is the row that is meant.
_KEY: BindParameter[Any] = bindparam("key")
_INSERT = {table: insert(table) for table in PROJECTIONS}
_RUNNING_CONTROLLER = update(CONTROLLERS).where(CONTROLLERS.c.epoch == _KEY, CONTROLLERS.c.stopped_at.is_(None))
_PHASE = update(PHASES).where(PHASES.c.phase == _KEY)
_NODE = update(NODES).where(NODES.c.node == _KEY)
_EVALUATION = update(EVALUATIONS).where(EVALUATIONS.c.evaluation == _KEY)
_WAITING_EVALUATION = _EVALUATION.where(EVALUATIONS.c.verdict.is_(None), EVALUATIONS.c.open_attempt.is_(None))
_READY_EVALUATION = _WAITING_EVALUATION.where(EVALUATIONS.c.attempts == bindparam("earlier"))
_EVALUATION_OF_ATTEMPT = update(EVALUATIONS).where(
    EVALUATIONS.c.evaluation == select(ATTEMPTS.c.evaluation).where(ATTEMPTS.c.attempt == _KEY).scalar_subquery()
)
_ATTEMPT = update(ATTEMPTS).where(ATTEMPTS.c.attempt == _KEY)
_OPEN_ATTEMPT = _ATTEMPT.where(ATTEMPTS.c.ended_seq.is_(None))

_PHASE_ROW = select(PHASES).where(PHASES.c.phase == _KEY)
_EVALUATION_ROW = select(EVALUATIONS).where(EVALUATIONS.c.evaluation == _KEY)
_ATTEMPT_ROW = select(ATTEMPTS).where(ATTEMPTS.c.attempt == _KEY)
_SUBMISSION = update(SUBMISSIONS).where(SUBMISSIONS.c.submission == _KEY)
_SUBMISSION_ROW = select(SUBMISSIONS.c.submission).where(SUBMISSIONS.c.submission == _KEY)
_SUBMISSION_ROW_WHOLE = select(SUBMISSIONS).where(SUBMISSIONS.c.submission == _KEY)
_REFUSAL_ROW = select(REFUSALS).where(REFUSALS.c.submission == _KEY)
_LIFT_REFUSAL = delete(REFUSALS).where(REFUSALS.c.submission == _KEY)
_METRICS = select(SCORES.c.metric).where(SCORES.c.evaluation == _KEY, SCORES.c.rejudging == bindparam("rejudging"))
_OF_PHASE = select(EVALUATIONS.c.evaluation).where(EVALUATIONS.c.phase == _KEY).limit(1)
_OPEN_OF_PHASE = _OF_PHASE.where(EVALUATIONS.c.verdict.is_(None), EVALUATIONS.c.series == "")
_SCORED_OF_PHASE = select(SCORES.c.evaluation).join(EVALUATIONS).where(EVALUATIONS.c.phase == _KEY).limit(1)
_SAME_EVALUATION = select(EVALUATIONS).where(
    EVALUATIONS.c.submission == bindparam("submission"),
    EVALUATIONS.c.phase == bindparam("phase"),
    EVALUATIONS.c.series == bindparam("series"),
)
_SEAL_ROW = select(SEALS).where(SEALS.c.phase == _KEY)
_SEALED = update(SEALS).where(SEALS.c.phase == _KEY, SEALS.c.sealed.is_(True))
_SEALED_OF = select(SEALED_SCORES).where(SEALED_SCORES.c.evaluation == _KEY).order_by(SEALED_SCORES.c.seq)
_OPENED = update(SEALED_SCORES).where(SEALED_SCORES.c.seq == _KEY).values(opened_seq=bindparam("opened"))
_SERIES_ROW = select(SERIES).where(SERIES.c.series == _KEY)
_RULINGS = select(RULINGS.c.ruling).where(RULINGS.c.submission == _KEY).order_by(RULINGS.c.seq)
_REJUDGING_ROW = select(REJUDGINGS).where(REJUDGINGS.c.rejudging == _KEY)
_STAGED = select(REJUDGINGS.c.rejudging).where(REJUDGINGS.c.state == "staged").limit(1)
_REJUDGING = update(REJUDGINGS).where(REJUDGINGS.c.rejudging == _KEY)
_STANDING_SCORES = delete(SCORES).where(SCORES.c.evaluation == _KEY, SCORES.c.rejudging == "")
_SCORES_OF = select(SCORES).where(SCORES.c.evaluation == _KEY, SCORES.c.rejudging == bindparam("rejudging"))
_SCORED_OTHERWISE = (
    select(SCORES.c.evaluation)
    .join(EVALUATIONS)
    .where(
        EVALUATIONS.c.phase == _KEY,
        EVALUATIONS.c.series == "",
        SCORES.c.rejudging == "",
        (SCORES.c.labels_digest != bindparam("labels")) | (SCORES.c.epsilon != bindparam("epsilon")),
    )
    .limit(1)
)


def _add(connection: Connection, table: Table, **values: Any) -> None:
    connection.execute(_INSERT[table], values)


def _change(connection: Connection, statement: Update, key: str | int, **values: Any) -> bool:
    return connection.execute(statement, {"key": key, **values}).rowcount == 1


def _find(connection: Connection, statement: Select[Any], key: str) -> Row[Any] | None:
    return connection.execute(statement, {"key": key}).first()


# Controllers, phases, submissions, nodes


@_applies(events.ControllerStarted)
def _controller_started(connection: Connection, link: Link, event: events.ControllerStarted) -> None:
    _add(connection, CONTROLLERS, started_at=link.time, **event.model_dump())


@_applies(events.ControllerStopped)
def _controller_stopped(connection: Connection, link: Link, event: events.ControllerStopped) -> None:
    stopped = {"stopped_at": link.time, "stop_reason": event.reason}
    if not _change(connection, _RUNNING_CONTROLLER, event.epoch, **stopped):
        raise _refuse(link, f"controller {event.epoch} does not run")


@_applies(events.PhaseRecorded)
def _phase_recorded(connection: Connection, link: Link, event: events.PhaseRecorded) -> None:
    old = _find(connection, _PHASE_ROW, event.phase)
    facts = event.model_dump()
    if old is None:
        _add(connection, PHASES, **facts)
        return
    if old.data_digest != event.data_digest and _find(connection, _OF_PHASE, event.phase):
        raise _refuse(link, f"the data of {event.phase} changed after evaluations on it were requested")
    if old.labels_digest not in {None, event.labels_digest} and _find(connection, _SCORED_OF_PHASE, event.phase):
        raise _refuse(link, f"the labels of {event.phase} changed after evaluations on it were scored")
    _change(connection, _PHASE, event.phase, **facts)


@_applies(events.CampaignFinished)
def _campaign_finished(connection: Connection, link: Link, event: events.CampaignFinished) -> None:
    if _find(connection, _OPEN_OF_PHASE, event.phase):
        raise _refuse(link, f"some evaluations on {event.phase} have not ended")
    _change(connection, _PHASE, event.phase, finished_at=link.time)


@_applies(events.SubmissionImported)
def _submission_imported(connection: Connection, link: Link, event: events.SubmissionImported) -> None:
    if _find(connection, _SUBMISSION_ROW, event.submission):
        raise _refuse(link, f"{event.submission} was imported before")
    values = event.model_dump(exclude={"submission_kind"})
    _add(connection, SUBMISSIONS, kind=event.submission_kind, seq=link.seq, **values)
    refused = _find(connection, _REFUSAL_ROW, event.submission)
    if refused is not None:
        if refused.identity_commitment != event.identity_commitment:
            raise _refuse(link, f"{event.submission} was refused before under other names")
        connection.execute(_LIFT_REFUSAL, {"key": event.submission})


@_applies(events.SubmissionRefused)
def _submission_refused(connection: Connection, link: Link, event: events.SubmissionRefused) -> None:
    if _find(connection, _SUBMISSION_ROW, event.submission):
        raise _refuse(link, f"{event.submission} was imported before")
    old = _find(connection, _REFUSAL_ROW, event.submission)
    if old is not None and old.identity_commitment != event.identity_commitment:
        raise _refuse(link, f"{event.submission} was refused before under other names")
    connection.execute(_LIFT_REFUSAL, {"key": event.submission})
    values = event.model_dump(exclude={"submission_kind"})
    _add(connection, REFUSALS, kind=event.submission_kind, seq=link.seq, **values)


def _note_node(connection: Connection, link: Link, node: str, **values: Any) -> None:
    if not _change(connection, _NODE, node, seq=link.seq, **values):
        fresh = {"quarantined": False, "reason": "", "released_seq": 0}
        _add(connection, NODES, node=node, seq=link.seq, **(fresh | values))


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
    if _evaluation_of(connection, event.submission, event.phase, event.series):
        raise _refuse(link, f"{event.submission} on {event.phase} was requested before")
    if not _find(connection, _SUBMISSION_ROW, event.submission):
        raise _refuse(link, f"there is no submission {event.submission}")
    if not _find(connection, _PHASE_ROW, event.phase):
        raise _refuse(link, f"the data of the phase {event.phase} was never recorded")
    if event.series:
        series = _find(connection, _SERIES_ROW, event.series)
        if series is None or series.phase != event.phase or event.submission not in json.loads(series.submissions):
            raise _refuse(link, f"no series {event.series} was started that has {event.submission} on {event.phase}")
    _add(
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


def _evaluation_of(connection: Connection, submission: str, phase: str, series: str) -> Row[Any] | None:
    key = {"submission": submission, "phase": phase, "series": series}
    return connection.execute(_SAME_EVALUATION, key).first()


@_applies(events.AttemptPlanned)
def _attempt_planned(connection: Connection, link: Link, event: events.AttemptPlanned) -> None:
    counted = {"open_attempt": event.attempt, "attempts": event.number}
    if not _change(connection, _READY_EVALUATION, event.evaluation, earlier=event.number - 1, **counted):
        raise _refuse(
            link, f"{event.evaluation} does not wait for attempt {event.number} (it has ended, runs, or is elsewhere)"
        )
    evaluation = _find(connection, _EVALUATION_ROW, event.evaluation)
    this_round = evaluation.round if evaluation else 1
    values = event.model_dump()
    _add(connection, ATTEMPTS, round=this_round, planned_at=link.time, planned_seq=link.seq, **values)


@_applies(events.AttemptSubmitted)
def _attempt_submitted(connection: Connection, link: Link, event: events.AttemptSubmitted) -> None:
    if not _change(connection, _OPEN_ATTEMPT, event.attempt, handle=event.handle, submitted_at=link.time):
        raise _refuse(link, f"{event.attempt} is not open")


@_applies(events.AttemptEnded)
def _attempt_ended(connection: Connection, link: Link, event: events.AttemptEnded) -> None:
    if event.verdict is Verdict.OK and event.predictions_digest is None:
        raise _refuse(link, f"{event.attempt} ended as ok without predictions")
    values = event.model_dump(exclude={"attempt", "measurements", "started_at", "ended_at"})
    values["measurements"] = event.measurements and canonical_json(event.measurements.model_dump(mode="json"))
    values["started_at"] = event.started_at and format_time(event.started_at)
    values["ended_at"] = event.ended_at and format_time(event.ended_at)
    if not _change(connection, _OPEN_ATTEMPT, event.attempt, ended_seq=link.seq, **values):
        raise _refuse(link, f"{event.attempt} is not open")
    closed = {"open_attempt": None, "last_verdict": event.verdict.value}
    _change(connection, _EVALUATION_OF_ATTEMPT, event.attempt, **closed)


@_applies(events.AttemptFenced)
def _attempt_fenced(connection: Connection, link: Link, event: events.AttemptFenced) -> None:
    if not _change(connection, _ATTEMPT, event.attempt, fenced=event.reason):
        raise _refuse(link, f"there is no attempt {event.attempt}")


@_applies(events.EvaluationEnded)
def _evaluation_ended(connection: Connection, link: Link, event: events.EvaluationEnded) -> None:
    predictions = None
    if event.copied_from is not None:
        predictions = _original(connection, link, event).predictions_digest
    elif event.attempt is not None:
        found = _find(connection, _ATTEMPT_ROW, event.attempt)
        if found is None or found.evaluation != event.evaluation or found.verdict != event.verdict:
            raise _refuse(link, f"{event.attempt} is not an attempt of it that ended as {event.verdict}")
        if found.smoke and event.verdict is Verdict.OK:
            raise _refuse(link, f"{event.attempt} was a smoke run, which gives no result")
        predictions = found.predictions_digest
    elif event.verdict is Verdict.OK:
        raise _refuse(link, "a valid result needs the attempt that gave it")
    if event.verdict is Verdict.OK and event.final is False:
        raise _refuse(link, "the first valid result is final")
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
    if not _change(connection, _WAITING_EVALUATION, event.evaluation, **ending):
        raise _refuse(link, f"{event.evaluation} has ended before, has an open attempt, or was never requested")


def _original(connection: Connection, link: Link, event: events.EvaluationEnded) -> Row[Any]:
    """The evaluation that was run instead of this one: of the same image and kind, on the same phase, and ended so."""
    rows = [_find(connection, _EVALUATION_ROW, str(name)) for name in (event.copied_from, event.evaluation)]
    original, copy = rows
    if original is None or copy is None or original.evaluation == copy.evaluation or original.copied_from is not None:
        raise _refuse(link, f"{event.copied_from} is not an evaluation that another can be copied from")
    ran, same = (_find(connection, _SUBMISSION_ROW_WHOLE, row.submission) for row in (original, copy))
    if ran is None or same is None or (ran.image, ran.kind, original.phase) != (same.image, same.kind, copy.phase):
        raise _refuse(link, f"{event.copied_from} is not of the same image, kind and phase")
    if (original.verdict, original.attempt) != (event.verdict.value, event.attempt):
        raise _refuse(link, f"{event.copied_from} did not end so")
    return original


@_applies(events.EvaluationReopened)
def _evaluation_reopened(connection: Connection, link: Link, event: events.EvaluationReopened) -> None:
    old = _find(connection, _EVALUATION_ROW, event.evaluation)
    if old is None or old.verdict is None:
        raise _refuse(link, f"{event.evaluation} has not ended")
    if old.final:
        raise _refuse(link, f"{event.evaluation} ended as {old.verdict}, which is final")
    fresh = {"verdict": None, "final": None, "attempt": None, "ended_at": None, "reason": event.reason}
    fresh["copied_from"] = None
    _change(connection, _EVALUATION, event.evaluation, round=old.round + 1, **fresh)
    _change(connection, _PHASE, old.phase, finished_at=None)


@_applies(events.EvaluationScored)
def _evaluation_scored(connection: Connection, link: Link, event: events.EvaluationScored) -> None:
    found = _find(connection, _EVALUATION_ROW, event.evaluation)
    if found is None or found.verdict != Verdict.OK or found.predictions_digest != event.predictions_digest:
        raise _refuse(link, f"{event.evaluation} has no valid result with these predictions")
    _open_sealed(connection, link, found.phase, event)
    labels, epsilon = _scored_by(connection, link, found.phase, event.rejudging)
    if labels != event.labels_digest:
        raise _refuse(link, f"the labels are not those that were recorded for {found.phase}")
    if epsilon is not None and event.epsilon is not None and float(event.epsilon) != epsilon:
        raise _refuse(link, f"{found.phase} is scored with the epsilon {epsilon}, not {event.epsilon}")
    rejudging = event.rejudging or ""
    known = connection.execute(_METRICS, {"key": event.evaluation, "rejudging": rejudging}).scalars()
    twice = sorted(set(known) & set(event.scores))
    if twice:
        raise _refuse(link, f"{event.evaluation} was scored before by {', '.join(twice)}")
    values = event.model_dump(exclude={"scores", "salt"}) | {"seq": link.seq, "rejudging": rejudging}
    for metric, value in event.scores.items():
        _add(connection, SCORES, metric=metric, value=value, **values)


def _scored_by(
    connection: Connection, link: Link, phase: str, rejudging: str | None
) -> tuple[str | None, float | None]:
    """Under which labels and epsilon scores of a phase are to be; None where that was never fixed."""
    if rejudging is not None:
        staged = _find(connection, _REJUDGING_ROW, rejudging)
        if staged is None or staged.state != "staged" or staged.phase != phase:
            raise _refuse(link, f"no rejudging {rejudging} of {phase} is staged")
        return staged.labels_digest, float(json.loads(staged.metric)["epsilon"])
    row = _find(connection, _PHASE_ROW, phase)
    if row is None:
        return None, None
    return row.labels_digest, float(json.loads(row.scoring)["epsilon"]) if row.scoring else None


@_applies(events.ScoringFixed)
def _scoring_fixed(connection: Connection, link: Link, event: events.ScoringFixed) -> None:
    row = _find(connection, _PHASE_ROW, event.phase)
    if row is None or row.labels_digest != event.labels_digest:
        raise _refuse(link, f"the labels are not those that were recorded for {event.phase}")
    if row.scoring:
        old = MetricChoice.model_validate_json(row.scoring)
        if not old.grows_into(event.metric):
            raise _refuse(link, f"{event.phase} is scored otherwise, and only a rejudging changes that")
    _change(connection, _PHASE, event.phase, scoring=_text(event.metric))


def _text(model: Frozen) -> str:
    return canonical_json(model.model_dump(mode="json"))


# Seals


def _refuse_sealed(connection: Connection, link: Link, phase: str) -> None:
    row = _find(connection, _SEAL_ROW, phase)
    if row is not None and row.sealed:
        raise _refuse(link, f"scores on {phase} are sealed")


@_applies(seals.PhaseSealed)
def _phase_sealed(connection: Connection, link: Link, event: seals.PhaseSealed) -> None:
    if _find(connection, _PHASE_ROW, event.phase) is None:
        raise _refuse(link, f"the data of the phase {event.phase} was never recorded")
    if _find(connection, _SEAL_ROW, event.phase) is not None:
        raise _refuse(link, f"{event.phase} was sealed before, and that happens once")
    if _find(connection, _SCORED_OF_PHASE, event.phase):
        raise _refuse(link, f"scores on {event.phase} could be seen already")
    _add(connection, SEALS, phase=event.phase, sealed=True, reason=event.reason, seq=link.seq)


@_applies(seals.PhaseUnsealed)
def _phase_unsealed(connection: Connection, link: Link, event: seals.PhaseUnsealed) -> None:
    if not _change(connection, _SEALED, event.phase, sealed=False, reason=event.reason, seq=link.seq):
        raise _refuse(link, f"{event.phase} is not sealed")


@_applies(seals.PublicBoardRecorded)
def _public_board_recorded(connection: Connection, link: Link, event: seals.PublicBoardRecorded) -> None:
    for submission, standing in event.standings.items():
        if not _change(connection, _SUBMISSION, submission, public_score=float(standing.score)):
            raise _refuse(link, f"there is no submission {submission}")


@_applies(seals.EvaluationSealed)
def _evaluation_sealed(connection: Connection, link: Link, event: seals.EvaluationSealed) -> None:
    found = _find(connection, _EVALUATION_ROW, event.evaluation)
    if found is None or found.verdict != Verdict.OK or found.predictions_digest != event.predictions_digest:
        raise _refuse(link, f"{event.evaluation} has no valid result with these predictions")
    row = _find(connection, _SEAL_ROW, found.phase)
    if row is None or not row.sealed:
        raise _refuse(link, f"{found.phase} is not sealed")
    if _scored_by(connection, link, found.phase, None)[0] != event.labels_digest:
        raise _refuse(link, f"the labels are not those that were recorded for {found.phase}")
    earlier = connection.execute(_SEALED_OF, {"key": event.evaluation}).all()
    if {metric for old in earlier for metric in json.loads(old.metrics)} & set(event.metrics):
        raise _refuse(link, f"{event.evaluation} was scored before by {', '.join(event.metrics)}")
    _add(
        connection,
        SEALED_SCORES,
        seq=link.seq,
        evaluation=event.evaluation,
        metrics=canonical_json(list(event.metrics)),
        commitment=event.commitment,
        sealed=event.sealed,
    )


@_applies(events.ConfirmationRecorded)
def _confirmation_recorded(connection: Connection, link: Link, event: events.ConfirmationRecorded) -> None:
    _refuse_sealed(connection, link, event.phase)


@_applies(events.SubmissionReproduced)
def _submission_reproduced(connection: Connection, link: Link, event: events.SubmissionReproduced) -> None:
    _refuse_sealed(connection, link, event.phase)


def _open_sealed(connection: Connection, link: Link, phase: str, event: events.EvaluationScored) -> None:
    """Refuse scores while their phase is sealed, and afterwards others than those that were sealed."""
    _refuse_sealed(connection, link, phase)
    if event.rejudging is not None:
        return
    waiting = [row for row in connection.execute(_SEALED_OF, {"key": event.evaluation}) if row.opened_seq is None]
    meant = [row for row in waiting if set(json.loads(row.metrics)) & set(event.scores)]
    if not meant and event.salt is None:
        return
    commitment = seals.score_commitment(
        event.salt or "",
        event.evaluation,
        event.scores,
        predictions_digest=event.predictions_digest,
        labels_digest=event.labels_digest,
        scorer_version=event.scorer_version,
        epsilon=event.epsilon,
    )
    if [row.commitment for row in meant] != [commitment]:
        raise _refuse(link, f"these are not the scores of {event.evaluation} that were sealed")
    connection.execute(_OPENED, {"key": meant[0].seq, "opened": link.seq})


# Rulings, rejudgings, further runs


@_applies(events.SubmissionRuled)
def _submission_ruled(connection: Connection, link: Link, event: events.SubmissionRuled) -> None:
    if not _find(connection, _SUBMISSION_ROW, event.submission):
        raise _refuse(link, f"there is no submission {event.submission}")
    earlier = [Ruling(text) for text in connection.execute(_RULINGS, {"key": event.submission}).scalars()]
    if why := objection(earlier, event.ruling):
        raise _refuse(link, f"{event.submission}: {why}")
    _add(connection, RULINGS, seq=link.seq, ruled_at=link.time, **event.model_dump(mode="json"))


@_applies(events.SeriesStarted)
def _series_started(connection: Connection, link: Link, event: events.SeriesStarted) -> None:
    if _find(connection, _SERIES_ROW, event.series):
        raise _refuse(link, f"a series {event.series} was started before")
    values = event.model_dump(exclude={"submissions", "limits"})
    values["submissions"] = canonical_json(list(event.submissions))
    values["limits"] = event.limits and _text(event.limits)
    _add(connection, SERIES, seq=link.seq, **values)


@_applies(events.RejudgingStaged)
def _rejudging_staged(connection: Connection, link: Link, event: events.RejudgingStaged) -> None:
    if _find(connection, _REJUDGING_ROW, event.rejudging):
        raise _refuse(link, f"{event.rejudging} was staged before")
    _refuse_sealed(connection, link, event.phase)
    if connection.execute(_STAGED).first():
        raise _refuse(link, "another rejudging is staged")
    values = event.model_dump(exclude={"submissions", "metric"})
    values |= {"submissions": canonical_json(list(event.submissions)), "metric": _text(event.metric)}
    _add(connection, REJUDGINGS, seq=link.seq, state="staged", reason="", staged_at=link.time, **values)


def _staged(connection: Connection, link: Link, rejudging: str) -> Row[Any]:
    row = _find(connection, _REJUDGING_ROW, rejudging)
    if row is None or row.state != "staged":
        raise _refuse(link, f"{rejudging} is not staged")
    return row


@_applies(events.RejudgingCancelled)
def _rejudging_cancelled(connection: Connection, link: Link, event: events.RejudgingCancelled) -> None:
    _staged(connection, link, event.rejudging)
    _change(connection, _REJUDGING, event.rejudging, state="cancelled", reason=event.reason, closed_at=link.time)


@_applies(events.RejudgingApplied)
def _rejudging_applied(connection: Connection, link: Link, event: events.RejudgingApplied) -> None:
    staged = _staged(connection, link, event.rejudging)
    for submission in json.loads(staged.submissions):
        official = _evaluation_of(connection, submission, staged.phase, "")
        if official is None or official.verdict is None:
            raise _refuse(link, f"the evaluation of {submission} on {staged.phase} has not ended")
        if staged.method == "rescore":
            _replace_scores(connection, official.evaluation, official.evaluation, event.rejudging)
        else:
            _take_over(
                connection, link, official, _evaluation_of(connection, submission, staged.phase, staged.rejudging)
            )
    metric = json.loads(staged.metric)
    _change(connection, _PHASE, staged.phase, scoring=staged.metric, labels_digest=staged.labels_digest)
    other = {"key": staged.phase, "labels": staged.labels_digest, "epsilon": repr(float(metric["epsilon"]))}
    if (left := connection.execute(_SCORED_OTHERWISE, other).first()) is not None:
        raise _refuse(link, f"{left.evaluation} would keep a score under other labels or another epsilon")
    closed = {"state": "applied", "reason": event.reason, "after": event.after, "closed_at": link.time}
    _change(connection, _REJUDGING, event.rejudging, **closed)


def _take_over(connection: Connection, link: Link, official: Row[Any], run: Row[Any] | None) -> None:
    """Let an evaluation rest on its further run; one that ended by no doing of the submission changes nothing."""
    if run is None or run.verdict is None:
        raise _refuse(link, f"the further run of {official.evaluation} has not ended")
    if not run.final:
        return
    taken = ("verdict", "final", "attempt", "reason", "ended_at", "predictions_digest", "last_verdict")
    _change(connection, _EVALUATION, official.evaluation, **{name: getattr(run, name) for name in taken})
    _replace_scores(connection, official.evaluation, run.evaluation, "")


def _replace_scores(connection: Connection, evaluation: str, source: str, rejudging: str) -> None:
    found = [row._asdict() for row in connection.execute(_SCORES_OF, {"key": source, "rejudging": rejudging})]
    connection.execute(_STANDING_SCORES, {"key": evaluation})
    for row in found:
        _add(connection, SCORES, **(row | {"evaluation": evaluation, "rejudging": ""}))
