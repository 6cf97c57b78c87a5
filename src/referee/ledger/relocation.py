"""Moving a ledger to another database: every event byte for byte, the names, and the tables made again.

The old ledger is closed before the new one can be seen, so there is never a moment at which both take events; and
nothing of the new one can be seen before it was found to be the same. If this is killed in between, the old one stays
closed and can be read, and the same call again completes the move.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, insert, select

from referee.errors import ConfigurationError, ConflictError, HostError, LedgerError
from referee.ledger import projections
from referee.ledger.addresses import is_address
from referee.ledger.chain import Head, Link, verify_links
from referee.ledger.database import Database, MissingLedgerError
from referee.ledger.events import read_event
from referee.ledger.migrations import bring_up_to_date
from referee.ledger.moves import LedgerArrived, LedgerMoved
from referee.ledger.records import read_last, read_links
from referee.ledger.schema import EVENTS, IDENTITIES
from referee.ledger.store import Ledger

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Relocated:
    """A move that is complete: where the ledger is now, and the chain's head there.

    `earlier`: it was complete before this call. `set_aside`: the ending of the name under which the ledger that lay at
    that place before is kept.
    """

    where: Path | str
    head: Head
    earlier: bool = False
    set_aside: str | None = None


def relocate(source: Ledger, target: Database) -> Relocated:
    """Move a ledger, or complete a move that was interrupted.

    Raises:
        ConflictError: if a controller is at work, there is another ledger at the new place, or this one was moved to
            another place before.
        ConfigurationError: if the new place is the old one.
        LedgerError: if the ledger is not sound, or the copy is not the same; nothing has moved then.
    """
    if target.where == source.where:
        raise ConfigurationError(f"The ledger lies at {target.name} already.", hint="Name another place.")
    lock = source.database.lock()
    lock.acquire(socket.gethostname())
    try:
        source.verify()
        to: Literal["sqlite", "postgresql"] = "postgresql" if is_address(target.where) else "sqlite"
        move = _Move(source, target, to, _pending(source, target, to))
        there = _links_at(target)
        if move.has_arrived(there):
            target_ledger = Ledger.open(target.where)
            with target_ledger:
                head = target_ledger.verify()
            source.database.put_signpost(target.name)
            return Relocated(target.where, head, earlier=True)
        set_aside = _made_way(source, target, there)
        target.create(move.fill, set_aside=set_aside)
        source.database.put_signpost(target.name)
    finally:
        lock.release()
    with Ledger.open(target.where) as moved:
        return Relocated(target.where, moved.verify(), set_aside=set_aside)


def abandon(source: Ledger, target: Database, reason: str, *, lost: bool = False) -> Head:
    """Call off a move that was not completed: the chain goes on here, with a note of it. Nothing is taken out.

    Args:
        source: the ledger, closed by the move.
        target: where it was to go.
        reason: for the record.
        lost: the new place cannot be looked at, and whoever calls this knows that it is lost for good.

    Raises:
        ConflictError: if no move has closed this ledger, it went to another place, it has arrived, or it cannot be seen
            whether it has and `lost` is not said.
    """
    lock = source.database.lock()
    lock.acquire(socket.gethostname())
    try:
        source.verify()
        to: Literal["sqlite", "postgresql"] = "postgresql" if is_address(target.where) else "sqlite"
        name = _pending(source, target, to)
        if name is None:
            raise ConflictError("No move has closed this ledger.", hint="There is nothing to call off.")
        try:
            arrived = _Move(source, target, to, name).has_arrived(_links_at(target))
        except (HostError, LedgerError) as error:
            if not lost:
                raise ConflictError(
                    f"Whether the ledger arrived at {target.name} cannot be seen. {error.message}",
                    hint="Let it be seen. Only if it is lost for good, say so with --lost.",
                ) from error
            arrived = False
        if arrived:
            raise ConflictError(
                f"The ledger has arrived at {target.name}; it goes on there.",
                hint="Let [ledger] in challenge.toml name that place; from there it can be moved back.",
            )
        with source.database.writing(leading=True) as connection:
            source.arrive(connection, name, abandoned=reason)
    finally:
        lock.release()
    return source.verify()


@dataclass
class _Move:
    source: Ledger
    target: Database
    to: Literal["sqlite", "postgresql"]
    name: str | None  # of a move that closed the source before

    def has_arrived(self, there: Sequence[Link]) -> bool:
        """Whether the chain at the new place shows that this very move was completed."""
        arrivals = (read_event(link.kind, link.payload) for link in there if link.kind == LedgerArrived.kind)
        return self.name is not None and any(isinstance(e, LedgerArrived) and e.move == self.name for e in arrivals)

    def fill(self, connection: Connection) -> None:
        """Everything that is in the source, and the note that it arrived; the source is closed on the way."""
        bring_up_to_date(connection)
        copied = _copy_links(self.source, connection, after=0)
        closed_here = self.name is None
        if self.name is None:
            name = secrets.token_hex(8)
            # Before it is closed, so that whoever finds it closed finds where it went.
            self.source.database.put_signpost(self.target.name)
            self.source.leave(name, self.to)
            self.name = name
        try:
            # What others wrote until it was closed, and that it was.
            _copy_links(self.source, connection, after=copied)
            _copy_identities(self.source, connection)
            _compare(self.source, connection)
            self.source.arrive(connection, self.name)
        except BaseException:
            if closed_here:
                with self.source.database.writing(leading=True) as at_home:
                    self.source.arrive(at_home, self.name)  # nothing has left, and nothing will
            raise


def _pending(source: Ledger, target: Database, to: str) -> str | None:
    """The name of the move that closed the source; None if it is open."""
    with source.read() as connection:
        last = read_last(connection)
    event = read_event(last.kind, last.payload) if last else None
    if not isinstance(event, LedgerMoved):
        return None
    signpost = source.database.signpost()
    if event.to != to or signpost not in {None, target.name}:
        raise ConflictError(
            f"This ledger was moved to {signpost or event.to}; it can be read, but not moved a second time.",
            hint="Move it from there; or give that place, to complete a move that was interrupted.",
        )
    return event.move


def _links_at(target: Database) -> list[Link]:
    try:
        target.require()
    except MissingLedgerError:
        return []
    with target.reading() as connection:
        return list(read_links(connection))


def _made_way(source: Ledger, target: Database, there: Sequence[Link]) -> str | None:
    """The ending for the name of the ledger that lies in the way: an earlier part of this one that was moved on."""
    if not there:
        return None
    with source.read() as connection:
        same = all(mine == other for mine, other in zip(read_links(connection), there, strict=False))
    if not same or there[-1].kind != LedgerMoved.kind:
        raise ConflictError(
            f"There is another ledger at {target.name}.", hint="Name another place; that one is left alone."
        )
    return f"until_{there[-1].seq}"


def _copy_links(source: Ledger, connection: Connection, *, after: int) -> int:
    with source.read() as reading:
        page: list[Link] = []
        for link in read_links(reading, after=after):
            page.append(link)
            after = link.seq
            if len(page) == _AT_ONCE:
                _add(connection, page)
                page = []
        _add(connection, page)
    return after


def _add(connection: Connection, links: Sequence[Link]) -> None:
    if links:
        rows = [{name: getattr(link, name) for name in Link.__slots__} for link in links]
        connection.execute(insert(EVENTS), rows)
    for link in links:
        projections.apply(connection, link, read_event(link.kind, link.payload))


def _copy_identities(source: Ledger, connection: Connection) -> None:
    with source.read() as reading:
        rows = [row._asdict() for row in reading.execute(select(IDENTITIES))]
    if rows:
        connection.execute(insert(IDENTITIES), rows)


def _compare(source: Ledger, connection: Connection) -> None:
    names = select(IDENTITIES).order_by(IDENTITIES.c.submission)
    with source.read() as reading:
        same = (
            verify_links(read_links(reading)) == verify_links(read_links(connection)),
            reading.execute(names).all() == connection.execute(names).all(),
            projections.contents(reading) == projections.contents(connection),
        )
    if not all(same):
        what = ("chain", "names", "tables")[same.index(False)]
        raise LedgerError(
            f"The copy's {what} are not those of the ledger; nothing was moved.",
            hint="This is a defect of Referee, or of the database's text encoding. Please report it.",
        )
