"""What becomes of scores: under one choice of metrics and labels, and told only where their phase is not sealed."""

from __future__ import annotations

import json

from sqlalchemy import Connection, bindparam, select, update

from referee.challenge import MetricChoice
from referee.ledger import events, seals
from referee.ledger.chain import Link, canonical_json
from referee.ledger.projections.application import (
    EVALUATION_ROW,
    KEY,
    PHASE,
    PHASE_ROW,
    REJUDGING_ROW,
    SCORED_OF_PHASE,
    add,
    applies,
    as_text,
    change,
    find,
    refuse,
)
from referee.ledger.schema import SCORES, SEALED_SCORES, SEALS
from referee.verdicts import Verdict

_METRICS = select(SCORES.c.metric).where(SCORES.c.evaluation == KEY, SCORES.c.rejudging == bindparam("rejudging"))
_SEAL_ROW = select(SEALS).where(SEALS.c.phase == KEY)
_SEALED = update(SEALS).where(SEALS.c.phase == KEY, SEALS.c.sealed.is_(True))
_SEALED_OF = select(SEALED_SCORES).where(SEALED_SCORES.c.evaluation == KEY).order_by(SEALED_SCORES.c.seq)
_OPENED = update(SEALED_SCORES).where(SEALED_SCORES.c.seq == KEY).values(opened_seq=bindparam("opened"))


@applies(events.EvaluationScored)
def _evaluation_scored(connection: Connection, link: Link, event: events.EvaluationScored) -> None:
    found = find(connection, EVALUATION_ROW, event.evaluation)
    if found is None or found.verdict != Verdict.OK or found.predictions_digest != event.predictions_digest:
        raise refuse(link, f"{event.evaluation} has no valid result with these predictions")
    open_sealed(connection, link, found.phase, event)
    labels, epsilon = scored_by(connection, link, found.phase, event.rejudging)
    if labels != event.labels_digest:
        raise refuse(link, f"the labels are not those that were recorded for {found.phase}")
    if epsilon is not None and event.epsilon is not None and float(event.epsilon) != epsilon:
        raise refuse(link, f"{found.phase} is scored with the epsilon {epsilon}, not {event.epsilon}")
    rejudging = event.rejudging or ""
    known = connection.execute(_METRICS, {"key": event.evaluation, "rejudging": rejudging}).scalars()
    twice = sorted(set(known) & set(event.scores))
    if twice:
        raise refuse(link, f"{event.evaluation} was scored before by {', '.join(twice)}")
    values = event.model_dump(exclude={"scores", "salt"}) | {"seq": link.seq, "rejudging": rejudging}
    for metric, value in event.scores.items():
        add(connection, SCORES, metric=metric, value=value, **values)


def scored_by(connection: Connection, link: Link, phase: str, rejudging: str | None) -> tuple[str | None, float | None]:
    """Under which labels and epsilon scores of a phase are to be; None where that was never fixed."""
    if rejudging is not None:
        staged = find(connection, REJUDGING_ROW, rejudging)
        if staged is None or staged.state != "staged" or staged.phase != phase:
            raise refuse(link, f"no rejudging {rejudging} of {phase} is staged")
        return staged.labels_digest, float(json.loads(staged.metric)["epsilon"])
    row = find(connection, PHASE_ROW, phase)
    if row is None:
        return None, None
    return row.labels_digest, float(json.loads(row.scoring)["epsilon"]) if row.scoring else None


@applies(events.ScoringFixed)
def _scoring_fixed(connection: Connection, link: Link, event: events.ScoringFixed) -> None:
    row = find(connection, PHASE_ROW, event.phase)
    if row is None or row.labels_digest != event.labels_digest:
        raise refuse(link, f"the labels are not those that were recorded for {event.phase}")
    if row.scoring:
        old = MetricChoice.model_validate_json(row.scoring)
        if not old.grows_into(event.metric):
            raise refuse(link, f"{event.phase} is scored otherwise, and only a rejudging changes that")
    change(connection, PHASE, event.phase, scoring=as_text(event.metric))


def refuse_sealed(connection: Connection, link: Link, phase: str) -> None:
    """Refuse an event that would tell scores of a phase that is sealed."""
    row = find(connection, _SEAL_ROW, phase)
    if row is not None and row.sealed:
        raise refuse(link, f"scores on {phase} are sealed")


@applies(seals.PhaseSealed)
def _phase_sealed(connection: Connection, link: Link, event: seals.PhaseSealed) -> None:
    if find(connection, PHASE_ROW, event.phase) is None:
        raise refuse(link, f"the data of the phase {event.phase} was never recorded")
    if find(connection, _SEAL_ROW, event.phase) is not None:
        raise refuse(link, f"{event.phase} was sealed before, and that happens once")
    if find(connection, SCORED_OF_PHASE, event.phase):
        raise refuse(link, f"scores on {event.phase} could be seen already")
    add(connection, SEALS, phase=event.phase, sealed=True, reason=event.reason, seq=link.seq)


@applies(seals.PhaseUnsealed)
def _phase_unsealed(connection: Connection, link: Link, event: seals.PhaseUnsealed) -> None:
    if not change(connection, _SEALED, event.phase, sealed=False, reason=event.reason, seq=link.seq):
        raise refuse(link, f"{event.phase} is not sealed")


@applies(seals.EvaluationSealed)
def _evaluation_sealed(connection: Connection, link: Link, event: seals.EvaluationSealed) -> None:
    found = find(connection, EVALUATION_ROW, event.evaluation)
    if found is None or found.verdict != Verdict.OK or found.predictions_digest != event.predictions_digest:
        raise refuse(link, f"{event.evaluation} has no valid result with these predictions")
    row = find(connection, _SEAL_ROW, found.phase)
    if row is None or not row.sealed:
        raise refuse(link, f"{found.phase} is not sealed")
    if scored_by(connection, link, found.phase, None)[0] != event.labels_digest:
        raise refuse(link, f"the labels are not those that were recorded for {found.phase}")
    earlier = connection.execute(_SEALED_OF, {"key": event.evaluation}).all()
    if {metric for old in earlier for metric in json.loads(old.metrics)} & set(event.metrics):
        raise refuse(link, f"{event.evaluation} was scored before by {', '.join(event.metrics)}")
    add(
        connection,
        SEALED_SCORES,
        seq=link.seq,
        evaluation=event.evaluation,
        metrics=canonical_json(list(event.metrics)),
        commitment=event.commitment,
        sealed=event.sealed,
    )


@applies(events.ConfirmationRecorded)
def _confirmation_recorded(connection: Connection, link: Link, event: events.ConfirmationRecorded) -> None:
    refuse_sealed(connection, link, event.phase)


@applies(events.SubmissionReproduced)
def _submission_reproduced(connection: Connection, link: Link, event: events.SubmissionReproduced) -> None:
    refuse_sealed(connection, link, event.phase)


def open_sealed(connection: Connection, link: Link, phase: str, event: events.EvaluationScored) -> None:
    """Refuse scores while their phase is sealed, and afterwards others than those that were sealed."""
    refuse_sealed(connection, link, phase)
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
        raise refuse(link, f"these are not the scores of {event.evaluation} that were sealed")
    connection.execute(_OPENED, {"key": meant[0].seq, "opened": link.seq})
