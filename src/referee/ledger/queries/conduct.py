"""How the campaign is conducted: what it is, its phases, controllers and nodes, and whether dispatch is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from referee.challenge import MetricChoice
from referee.ledger.chain import parse_time
from referee.ledger.events import ChallengeRecorded, DispatchResumed, DispatchStopped, LedgerCreated, RiskAccepted
from referee.ledger.queries.reading import read_rows
from referee.ledger.schema import CONTROLLERS, EVENTS, NODES, PHASES
from referee.ledger.store import Ledger


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
class NodeRow:
    """What is known of a node; `proved` is None before its first proof."""

    node: str
    boot_id: str | None
    level: str | None
    proved: bool | None
    quarantined: bool
    reason: str


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


def controllers(ledger: Ledger) -> tuple[ControllerRow, ...]:
    """Every controller there was, the newest last."""
    return read_rows(ledger, select(CONTROLLERS).order_by(CONTROLLERS.c.epoch), ControllerRow)


def phases(ledger: Ledger) -> dict[str, PhaseRow]:
    """The recorded phases by name."""
    return {row.phase: row for row in read_rows(ledger, select(PHASES).order_by(PHASES.c.phase), PhaseRow)}


def nodes(ledger: Ledger) -> tuple[NodeRow, ...]:
    """What is known of each node."""
    columns = [column for column in NODES.c if column.name not in {"released_seq", "seq"}]
    return read_rows(ledger, select(*columns).order_by(NODES.c.node), NodeRow)
