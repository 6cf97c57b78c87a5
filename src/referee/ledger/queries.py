"""What the command line, the report and the web read: typed rows, one function for each question.

What is official is what is given, unless a series of further runs is named: status, board and pilot never see those.

Each takes the ledger and reads one unchanging state of it. Times are aware and in UTC; durations are seconds;
sizes are bytes; scores are the floats that were recorded, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, func, select

from referee.attempts import Measurements
from referee.challenge import Limits, MetricChoice
from referee.ledger.chain import parse_time
from referee.ledger.events import (
    ChallengeRecorded,
    ConfirmationRecorded,
    DispatchResumed,
    DispatchStopped,
    EvaluationHeld,
    EvaluationScored,
    LedgerCreated,
    RiskAccepted,
    SubmissionReproduced,
)
from referee.ledger.identities import Identity
from referee.ledger.schema import (
    ATTEMPTS,
    CONTROLLERS,
    EVALUATIONS,
    EVENTS,
    IDENTITIES,
    NODES,
    PHASES,
    REFUSALS,
    REJUDGINGS,
    RULINGS,
    SCORES,
    SEALED_SCORES,
    SEALS,
    SERIES,
    SUBMISSIONS,
)
from referee.ledger.seals import PublicBoardRecorded
from referee.ledger.store import Ledger
from referee.policy import Outcome
from referee.rulings import Ruling
from referee.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Status:
    """How far a phase is. `verdicts` counts the evaluations that have ended, by verdict."""

    total: int
    done: int
    running: int
    waiting: int
    verdicts: dict[Verdict, int]


@dataclass(frozen=True, slots=True)
class ControllerRow:
    """A controller's time at the helm; `stopped_at` is None while it leads, and if it died."""

    epoch: int
    host: str
    pid: int
    boot_id: str
    started_at: datetime
    stopped_at: datetime | None
    stop_reason: str | None


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A phase as it was last recorded. `scoring` is the choice of metrics that its scores stand under."""

    phase: str
    data_digest: str
    files: int
    labels_digest: str | None
    finished_at: datetime | None
    scoring: MetricChoice | None = None


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
class EvaluationRow:
    """A submission on a phase.

    Attributes:
        order: its place in the order of dispatch.
        round: 1, and one more for each time that the operator reopened it.
        attempts: how many were planned, over all rounds.
        open_attempt: the one that is planned or runs now.
        last_verdict: of the last attempt that ended.
        verdict: of the evaluation; None while it has not ended.
        final: whether the verdict stands for good, or the evaluation may be reopened; None while it has not ended.
        attempt: the one that the verdict rests on.
        predictions_digest: of the accepted predictions; None unless the verdict is ok.
        copied_from: the evaluation of the same image that was run in its stead; None if it was run itself.
        series: the series of further runs that it belongs to; empty for the official evaluation.
    """

    evaluation: str
    submission: str
    team: str
    submission_kind: str
    image: str
    phase: str
    order: int
    round: int
    attempts: int
    open_attempt: str | None
    last_verdict: Verdict | None
    verdict: Verdict | None
    final: bool | None
    attempt: str | None
    reason: str
    requested_at: datetime
    ended_at: datetime | None
    predictions_digest: str | None
    copied_from: str | None = None
    series: str = ""


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


@dataclass(frozen=True, slots=True)
class NodeRow:
    """What is known of a node; `proved` is None before its first proof."""

    node: str
    boot_id: str | None
    level: str | None
    proved: bool | None
    quarantined: bool
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


def campaign(ledger: Ledger) -> LedgerCreated:
    """The campaign's random name and the challenge's name."""
    created = ledger.events(LedgerCreated)[0].event
    assert isinstance(created, LedgerCreated)  # noqa: S101 - asked for by its kind
    return created


def challenge(ledger: Ledger) -> ChallengeRecorded | None:
    """The challenge as it was last recorded."""
    found = [recorded.event for recorded in ledger.events(ChallengeRecorded)]
    return found[-1] if found and isinstance(found[-1], ChallengeRecorded) else None


def accepted_risks(ledger: Ledger) -> tuple[str, ...]:
    """Names of the risks that were ever accepted, in order, each once."""
    names = (r.event.name for r in ledger.events(RiskAccepted) if isinstance(r.event, RiskAccepted))
    return tuple(dict.fromkeys(names))


def dispatch_stopped(ledger: Ledger) -> str | None:
    """Why nothing is started at present (the circuit breaker is open), or None."""
    reason = None
    for recorded in ledger.events(DispatchStopped, DispatchResumed):
        reason = recorded.event.reason if isinstance(recorded.event, DispatchStopped) else None
    return reason


def last_event_time(ledger: Ledger) -> datetime:
    """When something was last recorded."""
    with ledger.read() as connection:
        return parse_time(connection.execute(select(EVENTS.c.time).order_by(EVENTS.c.seq.desc()).limit(1)).scalar_one())


def status(ledger: Ledger, phase: str, series: str = "") -> Status:
    """How many evaluations of a phase (or of a series on it) there are, have ended, run, and wait."""
    state = (EVALUATIONS.c.verdict, EVALUATIONS.c.open_attempt.is_not(None))
    mine = (EVALUATIONS.c.phase == phase, EVALUATIONS.c.series == series)
    query = select(*state, func.count()).where(*mine).group_by(*state)
    verdicts: dict[Verdict, int] = {}
    running = waiting = 0
    with ledger.read() as connection:
        for verdict, is_open, count in connection.execute(query):
            if verdict is not None:
                verdicts[Verdict(verdict)] = count
            elif is_open:
                running += count
            else:
                waiting += count
    done = sum(verdicts.values())
    ordered = {verdict: verdicts[verdict] for verdict in Verdict if verdict in verdicts}
    return Status(done + running + waiting, done, running, waiting, ordered)


def controllers(ledger: Ledger) -> tuple[ControllerRow, ...]:
    """Every controller there was, the newest last."""
    return _rows(ledger, select(CONTROLLERS).order_by(CONTROLLERS.c.epoch), ControllerRow)


def phases(ledger: Ledger) -> dict[str, PhaseRow]:
    """The recorded phases by name."""
    return {row.phase: row for row in _rows(ledger, select(PHASES).order_by(PHASES.c.phase), PhaseRow)}


def submissions(ledger: Ledger) -> tuple[SubmissionRow, ...]:
    """All submissions, in the order of their import."""
    columns = [column for column in SUBMISSIONS.c if column.name not in {"identity_commitment", "seq"}]
    return _rows(ledger, select(*columns).order_by(SUBMISSIONS.c.seq), SubmissionRow)


def refusals(ledger: Ledger) -> tuple[RefusalRow, ...]:
    """Submissions whose images were refused, in the order of their refusal."""
    columns = [column for column in REFUSALS.c if column.name not in {"identity_commitment", "seq"}]
    return _rows(ledger, select(*columns).order_by(REFUSALS.c.seq), RefusalRow)


_EVALUATION = (
    SUBMISSIONS.c.team,
    SUBMISSIONS.c.kind.label("submission_kind"),
    SUBMISSIONS.c.image,
    EVALUATIONS.c.position.label("order"),
    *(column for column in EVALUATIONS.c if column.name != "position"),
)


def evaluations(ledger: Ledger, phase: str | None = None, series: str | None = "") -> tuple[EvaluationRow, ...]:
    """Evaluations of a phase (or of all), in the order of dispatch.

    Those of a series of further runs if one is named, the official ones and those of all series with `series=None`.
    """
    query = select(*_EVALUATION).join(SUBMISSIONS)
    query = query.order_by(EVALUATIONS.c.phase, EVALUATIONS.c.series, EVALUATIONS.c.position)
    if series is not None:
        query = query.where(EVALUATIONS.c.series == series)
    return _rows(ledger, query if phase is None else query.where(EVALUATIONS.c.phase == phase), EvaluationRow)


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
    return _rows(ledger, query, AttemptRow)


def open_attempts(ledger: Ledger, phase: str | None = None, series: str = "") -> tuple[AttemptRow, ...]:
    """Attempts that were planned and have not ended: what a new controller has to adopt."""
    query = select(*_ATTEMPT).where(ATTEMPTS.c.ended_seq.is_(None)).order_by(ATTEMPTS.c.planned_seq)
    if phase is not None:
        query = query.join(EVALUATIONS).where(EVALUATIONS.c.phase == phase, EVALUATIONS.c.series == series)
    return _rows(ledger, query, AttemptRow)


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
    return _rows(ledger, query if phase is None else query.where(EVALUATIONS.c.phase == phase), ScoreRow)


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
    return {row.phase: row for row in _rows(ledger, select(*columns).order_by(SEALS.c.phase), SealRow)}


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
    return _rows(ledger, query.order_by(SEALED_SCORES.c.seq), SealedRow)


def rulings(ledger: Ledger) -> tuple[RulingRow, ...]:
    """Every ruling, in order."""
    query = select(RULINGS, SUBMISSIONS.c.team).join(SUBMISSIONS).order_by(RULINGS.c.seq)
    return _rows(ledger, query, RulingRow)


def taken_off(ledger: Ledger) -> dict[str, RulingRow]:
    """The submissions that are disqualified or withdrawn now, each with the ruling that keeps it off the board."""
    found: dict[str, RulingRow] = {}
    for row in rulings(ledger):
        if row.ruling is Ruling.REINSTATE:
            found.pop(row.submission, None)
        elif row.ruling is not Ruling.ADMIT:
            found[row.submission] = row
    return found


def series(ledger: Ledger) -> tuple[SeriesRow, ...]:
    """Every series of further runs, in the order in which they were started."""
    columns = [column for column in SERIES.c if column.name != "seq"]
    return _rows(ledger, select(*columns).order_by(SERIES.c.seq), SeriesRow)


def rejudgings(ledger: Ledger) -> tuple[RejudgingRow, ...]:
    """Every rejudging, in the order in which they were staged."""
    columns = [column for column in REJUDGINGS.c if column.name not in {"seq", "metric"}]
    query = select(*columns, REJUDGINGS.c.metric.label("metric_choice"))
    return _rows(ledger, query.order_by(REJUDGINGS.c.seq), RejudgingRow)


def reproductions(ledger: Ledger, phase: str) -> dict[str, SubmissionReproduced]:
    """The last word of the reproduction check on each submission, by submission."""
    events = (recorded.event for recorded in ledger.events(SubmissionReproduced))
    return {e.submission: e for e in events if isinstance(e, SubmissionReproduced) and e.phase == phase}


def confirmations(ledger: Ledger, phase: str) -> tuple[ConfirmationRecorded, ...]:
    """What came of each time that the prize zone of a phase was run again."""
    events = (recorded.event for recorded in ledger.events(ConfirmationRecorded))
    return tuple(e for e in events if isinstance(e, ConfirmationRecorded) and e.phase == phase)


def held(ledger: Ledger, phase: str) -> dict[str, str]:
    """Submissions that are not evaluated on a phase because they did not reproduce, with the reason."""
    events = (recorded.event for recorded in ledger.events(EvaluationHeld))
    reasons = {e.submission: e.reason for e in events if isinstance(e, EvaluationHeld) and e.phase == phase}
    asked = {row.submission for row in evaluations(ledger, phase)} if reasons else set()
    return {submission: reason for submission, reason in reasons.items() if submission not in asked}


def nodes(ledger: Ledger) -> tuple[NodeRow, ...]:
    """What is known of each node."""
    columns = [column for column in NODES.c if column.name not in {"released_seq", "seq"}]
    return _rows(ledger, select(*columns).order_by(NODES.c.node), NodeRow)


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
        for outcome in _read(connection, query, Outcome):
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
        return tuple(_read(connection, query, Outcome))[::-1]


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
        return tuple(_read(connection, query, Outcome))[::-1]


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


R = TypeVar("R")

# What the columns of these names hold is text; the rows have it typed.
_TYPED: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            "planned_at",
            "submitted_at",
            "started_at",
            "ended_at",
            "requested_at",
            "stopped_at",
            "finished_at",
            "ruled_at",
            "staged_at",
            "closed_at",
        ),
        parse_time,
    ),
    **dict.fromkeys(("verdict", "last_verdict"), Verdict),
    "measurements": Measurements.model_validate_json,
    "value": float,
    "ruling": Ruling,
    **dict.fromkeys(("scoring", "metric_choice"), MetricChoice.model_validate_json),
    "limits": Limits.model_validate_json,
    "submissions": lambda text: tuple(json.loads(text)),
}


def _rows(ledger: Ledger, query: Select[Any], kind: type[R]) -> tuple[R, ...]:
    with ledger.read() as connection:
        return tuple(_read(connection, query, kind))


def _read(connection: Connection, query: Select[Any], kind: type[R]) -> Iterator[R]:
    found = connection.execute(query)
    columns = [(name, _TYPED.get(name)) for name in found.keys()]  # noqa: SIM118 - a result is not a mapping
    for row in found:
        values = {
            name: value if typed is None or value is None else typed(value)
            for (name, typed), value in zip(columns, row, strict=True)
        }
        yield kind(**values)
