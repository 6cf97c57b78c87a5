"""What becomes of controllers, phases, submissions and nodes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, select, update

from referee.ledger import events, seals
from referee.ledger.chain import Link
from referee.ledger.projections.application import (
    KEY,
    PHASE,
    PHASE_ROW,
    SCORED_OF_PHASE,
    SUBMISSION_ROW,
    add,
    applies,
    change,
    find,
    refuse,
)
from referee.ledger.schema import CONTROLLERS, EVALUATIONS, NODES, PHASES, REFUSALS, RULINGS, SUBMISSIONS
from referee.rulings import Ruling, objection

_RUNNING_CONTROLLER = update(CONTROLLERS).where(CONTROLLERS.c.epoch == KEY, CONTROLLERS.c.stopped_at.is_(None))
_NODE = update(NODES).where(NODES.c.node == KEY)
_SUBMISSION = update(SUBMISSIONS).where(SUBMISSIONS.c.submission == KEY)
_REFUSAL_ROW = select(REFUSALS).where(REFUSALS.c.submission == KEY)
_LIFT_REFUSAL = delete(REFUSALS).where(REFUSALS.c.submission == KEY)
_OF_PHASE = select(EVALUATIONS.c.evaluation).where(EVALUATIONS.c.phase == KEY).limit(1)
_OPEN_OF_PHASE = _OF_PHASE.where(EVALUATIONS.c.verdict.is_(None), EVALUATIONS.c.series == "")
_RULINGS = select(RULINGS.c.ruling).where(RULINGS.c.submission == KEY).order_by(RULINGS.c.seq)


@applies(events.ControllerStarted)
def _controller_started(connection: Connection, link: Link, event: events.ControllerStarted) -> None:
    add(connection, CONTROLLERS, started_at=link.time, **event.model_dump())


@applies(events.ControllerStopped)
def _controller_stopped(connection: Connection, link: Link, event: events.ControllerStopped) -> None:
    stopped = {"stopped_at": link.time, "stop_reason": event.reason}
    if not change(connection, _RUNNING_CONTROLLER, event.epoch, **stopped):
        raise refuse(link, f"controller {event.epoch} does not run")


@applies(events.PhaseRecorded)
def _phase_recorded(connection: Connection, link: Link, event: events.PhaseRecorded) -> None:
    old = find(connection, PHASE_ROW, event.phase)
    facts = event.model_dump()
    if old is None:
        add(connection, PHASES, **facts)
        return
    if old.data_digest != event.data_digest and find(connection, _OF_PHASE, event.phase):
        raise refuse(link, f"the data of {event.phase} changed after evaluations on it were requested")
    if old.labels_digest not in {None, event.labels_digest} and find(connection, SCORED_OF_PHASE, event.phase):
        raise refuse(link, f"the labels of {event.phase} changed after evaluations on it were scored")
    change(connection, PHASE, event.phase, **facts)


@applies(events.CampaignFinished)
def _campaign_finished(connection: Connection, link: Link, event: events.CampaignFinished) -> None:
    if find(connection, _OPEN_OF_PHASE, event.phase):
        raise refuse(link, f"some evaluations on {event.phase} have not ended")
    change(connection, PHASE, event.phase, finished_at=link.time)


@applies(events.SubmissionImported)
def _submission_imported(connection: Connection, link: Link, event: events.SubmissionImported) -> None:
    if find(connection, SUBMISSION_ROW, event.submission):
        raise refuse(link, f"{event.submission} was imported before")
    values = event.model_dump(exclude={"submission_kind"})
    add(connection, SUBMISSIONS, kind=event.submission_kind, seq=link.seq, **values)
    refused = find(connection, _REFUSAL_ROW, event.submission)
    if refused is not None:
        if refused.identity_commitment != event.identity_commitment:
            raise refuse(link, f"{event.submission} was refused before under other names")
        connection.execute(_LIFT_REFUSAL, {"key": event.submission})


@applies(events.SubmissionRefused)
def _submission_refused(connection: Connection, link: Link, event: events.SubmissionRefused) -> None:
    if find(connection, SUBMISSION_ROW, event.submission):
        raise refuse(link, f"{event.submission} was imported before")
    old = find(connection, _REFUSAL_ROW, event.submission)
    if old is not None and old.identity_commitment != event.identity_commitment:
        raise refuse(link, f"{event.submission} was refused before under other names")
    connection.execute(_LIFT_REFUSAL, {"key": event.submission})
    values = event.model_dump(exclude={"submission_kind"})
    add(connection, REFUSALS, kind=event.submission_kind, seq=link.seq, **values)


def _note_node(connection: Connection, link: Link, node: str, **values: Any) -> None:
    if not change(connection, _NODE, node, seq=link.seq, **values):
        fresh = {"quarantined": False, "reason": "", "released_seq": 0}
        add(connection, NODES, node=node, seq=link.seq, **(fresh | values))


@applies(events.NodeProved)
def _node_proved(connection: Connection, link: Link, event: events.NodeProved) -> None:
    _note_node(connection, link, event.node, boot_id=event.boot_id, level=event.level, proved=True)


@applies(events.NodeRefused)
def _node_refused(connection: Connection, link: Link, event: events.NodeRefused) -> None:
    _note_node(
        connection, link, event.node, boot_id=event.boot_id, level=event.level, proved=False, reason=event.reason
    )


@applies(events.NodeQuarantined)
def _node_quarantined(connection: Connection, link: Link, event: events.NodeQuarantined) -> None:
    _note_node(connection, link, event.node, quarantined=True, reason=event.reason)


@applies(events.NodeReleased)
def _node_released(connection: Connection, link: Link, event: events.NodeReleased) -> None:
    _note_node(connection, link, event.node, quarantined=False, reason=event.reason, released_seq=link.seq)


@applies(seals.PublicBoardRecorded)
def _public_board_recorded(connection: Connection, link: Link, event: seals.PublicBoardRecorded) -> None:
    for submission, standing in event.standings.items():
        if not change(connection, _SUBMISSION, submission, public_score=float(standing.score)):
            raise refuse(link, f"there is no submission {submission}")


@applies(events.SubmissionRuled)
def _submission_ruled(connection: Connection, link: Link, event: events.SubmissionRuled) -> None:
    if not find(connection, SUBMISSION_ROW, event.submission):
        raise refuse(link, f"there is no submission {event.submission}")
    earlier = [Ruling(text) for text in connection.execute(_RULINGS, {"key": event.submission}).scalars()]
    if why := objection(earlier, event.ruling):
        raise refuse(link, f"{event.submission}: {why}")
    add(connection, RULINGS, seq=link.seq, ruled_at=link.time, **event.model_dump(mode="json"))
