"""An event together with its place in the chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, bindparam, select

from referee.ledger.chain import EMPTY, Head, Link, parse_time
from referee.ledger.events import Event, read_event
from referee.ledger.schema import EVENTS

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded: where in the chain, when, under which controller's epoch (None: by no controller)."""

    seq: int
    time: datetime
    epoch: int | None
    hash: str
    event: Event


def read_link(row: Row[tuple[object, ...]]) -> Link:
    """A row of the table `events` as a link."""
    return Link(row.seq, row.prev, row.time, row.epoch, row.kind, row.payload, row.hash)


def recorded(link: Link, event: Event | None = None) -> Recorded:
    """A link with its event; read from the payload unless it is at hand."""
    return Recorded(
        link.seq, parse_time(link.time), link.epoch, link.hash, event or read_event(link.kind, link.payload)
    )


def read_head(connection: Connection) -> Head:
    """The chain's last link."""
    last = read_last(connection)
    return EMPTY if last is None else Head(last.seq, last.hash)


def read_last(connection: Connection) -> Link | None:
    """The chain's last link, whole."""
    row = connection.execute(select(EVENTS).order_by(EVENTS.c.seq.desc()).limit(1)).one_or_none()
    return None if row is None else read_link(row)


def read_links(connection: Connection, *, after: int = 0) -> Iterator[Link]:
    """The chain's links with a `seq` above `after`, in order."""
    # Page by page, so that a long chain is not in memory at once and no cursor is left open by who stops in the middle.
    page = select(EVENTS).where(EVENTS.c.seq > bindparam("after")).order_by(EVENTS.c.seq).limit(_PAGE)
    while rows := connection.execute(page, {"after": after}).all():
        yield from map(read_link, rows)
        after = rows[-1].seq
