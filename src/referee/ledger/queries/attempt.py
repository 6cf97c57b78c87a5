"""Attempts: single executions, and their outcomes as `policy` asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select

from referee.attempts import Measurements
from referee.ledger.events import DispatchResumed
from referee.ledger.queries.reading import read_each, read_rows
from referee.ledger.schema import ATTEMPTS, EVALUATIONS, EVENTS, NODES
from referee.ledger.store import Ledger
from referee.policy import Outcome
from referee.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One execution. `fenced` is why a late or foreign result of it was left aside, if there was one.

    `smoke`: it ran on a few files only, before the full run.
    """

    attempt: str
    evaluation: str
    number: int
    round: int
    machine_type: str
    engine: str
    result_key: str
    level: str
    reference: bool
    wall_time_scale: float
    speed_ratio_upper: float | None
    handle: str | None
    planned_at: datetime
    submitted_at: datetime | None
    verdict: Verdict | None
    node: str | None
    started_at: datetime | None
    ended_at: datetime | None
    measurements: Measurements | None
    exit_status: int | None
    signal: int | None
    signature: str | None
    detail: str | None
    predictions_digest: str | None
    predictions_rows: int | None
    log_digest: str | None
    reported_by: str | None
    fenced: str | None
    smoke: bool = False


_ATTEMPT = tuple(column for column in ATTEMPTS.c if column.name not in {"planned_seq", "ended_seq"})


def attempts(
    ledger: Ledger, *, phase: str | None = None, evaluation: str | None = None, series: str = ""
) -> tuple[AttemptRow, ...]:
    """Attempts of a phase, of one evaluation, or all, in the order in which they were planned.

    Of a phase: the attempts of its official evaluations, and those that such an evaluation rests on since a rejudging
    was applied; or the attempts of a series of further runs.
    """
    query = select(*_ATTEMPT).order_by(ATTEMPTS.c.planned_seq)
    if evaluation is not None:
        query = query.where(ATTEMPTS.c.evaluation == evaluation)
    if phase is not None:
        mine = (EVALUATIONS.c.phase == phase, EVALUATIONS.c.series == series)
        own = ATTEMPTS.c.evaluation.in_(select(EVALUATIONS.c.evaluation).where(*mine))
        rested_on = ATTEMPTS.c.attempt.in_(select(EVALUATIONS.c.attempt).where(*mine))
        query = query.where(own | rested_on)
    return read_rows(ledger, query, AttemptRow)


def open_attempts(ledger: Ledger, phase: str | None = None, series: str = "") -> tuple[AttemptRow, ...]:
    """Attempts that were planned and have not ended: what a new controller has to adopt."""
    query = select(*_ATTEMPT).where(ATTEMPTS.c.ended_seq.is_(None)).order_by(ATTEMPTS.c.planned_seq)
    if phase is not None:
        query = query.join(EVALUATIONS).where(EVALUATIONS.c.phase == phase, EVALUATIONS.c.series == series)
    return read_rows(ledger, query, AttemptRow)


_OUTCOME = (
    ATTEMPTS.c.evaluation,
    ATTEMPTS.c.verdict,
    ATTEMPTS.c.node,
    ATTEMPTS.c.machine_type,
    ATTEMPTS.c.reference.label("is_reference"),
    ATTEMPTS.c.wall_time_scale,
    ATTEMPTS.c.speed_ratio_upper,
    ATTEMPTS.c.smoke,
)


def histories(
    ledger: Ledger, phase: str, *, undecided: bool = False, series: str = ""
) -> dict[str, tuple[Outcome, ...]]:
    """What `policy.decide` needs: for each evaluation, in the order of dispatch, its ended attempts of this round.

    Args:
        ledger: the ledger.
        phase: of which phase.
        undecided: only evaluations that have neither ended nor an open attempt, so that a decision is due.
        series: the series of further runs instead of the official evaluations.
    """
    wanted: ColumnElement[bool] = (EVALUATIONS.c.phase == phase) & (EVALUATIONS.c.series == series)
    if undecided:
        wanted &= EVALUATIONS.c.verdict.is_(None) & EVALUATIONS.c.open_attempt.is_(None)
    keys = select(EVALUATIONS.c.evaluation).where(wanted).order_by(EVALUATIONS.c.position, EVALUATIONS.c.evaluation)
    query = (
        select(*_OUTCOME)
        .join(EVALUATIONS)
        .where(wanted, ATTEMPTS.c.round == EVALUATIONS.c.round, ATTEMPTS.c.ended_seq.is_not(None))
        .order_by(ATTEMPTS.c.evaluation, ATTEMPTS.c.number)
    )
    with ledger.read() as connection:
        found: dict[str, list[Outcome]] = {name: [] for name in connection.execute(keys).scalars()}
        for outcome in read_each(connection, query, Outcome):
            found[outcome.evaluation].append(outcome)
    return {name: tuple(outcomes) for name, outcomes in found.items()}


def recent_outcomes(ledger: Ledger, *, limit: int = 100) -> tuple[Outcome, ...]:
    """What `policy.breaker` needs: the last ended attempts since dispatch was last resumed, oldest first."""
    resumed = select(func.coalesce(func.max(EVENTS.c.seq), 0)).where(EVENTS.c.kind == DispatchResumed.kind)
    query = (
        select(*_OUTCOME)
        .where(ATTEMPTS.c.ended_seq > resumed.scalar_subquery())
        .order_by(ATTEMPTS.c.ended_seq.desc())
        .limit(limit)
    )
    with ledger.read() as connection:
        return tuple(read_each(connection, query, Outcome))[::-1]


def node_outcomes(ledger: Ledger, node: str | None = None, *, limit: int = 1000) -> tuple[Outcome, ...]:
    """What `policy.node_health` needs: the last ended attempts on a node (or on all), each since its node's release.

    A quarantine is recorded when it is decided, so the last few attempts say what is to be decided now.
    """
    query = (
        select(*_OUTCOME)
        .outerjoin(NODES, NODES.c.node == ATTEMPTS.c.node)
        .where(ATTEMPTS.c.ended_seq > func.coalesce(NODES.c.released_seq, 0))
        .order_by(ATTEMPTS.c.ended_seq.desc())
        .limit(limit)
    )
    query = query.where(ATTEMPTS.c.node.is_not(None) if node is None else ATTEMPTS.c.node == node)
    with ledger.read() as connection:
        return tuple(read_each(connection, query, Outcome))[::-1]
