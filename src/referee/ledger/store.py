"""`Ledger`: the one place where events are written, and the chain is checked."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from sqlalchemy import Connection, insert, select

from referee.boot import boot_id
from referee.errors import ConfigurationError, ConflictError, LedgerError
from referee.ledger import projections, soundness
from referee.ledger.addresses import is_address
from referee.ledger.chain import EMPTY, Head, Link, next_link, verify_links
from referee.ledger.database import ConnectionLostError, Database
from referee.ledger.events import (
    ControllerStarted,
    ControllerStopped,
    Event,
    LedgerCreated,
    SubmissionImported,
    SubmissionRefused,
    utc_now,
)
from referee.ledger.identities import Identity
from referee.ledger.migrations import NEWEST, bring_up_to_date, version_of
from referee.ledger.moves import LedgerArrived, LedgerMoved
from referee.ledger.records import Recorded, read_head, read_last, read_link, read_links, recorded
from referee.ledger.schema import CONTROLLERS, EVENTS, IDENTITIES
from referee.ledger.sqlite import SqliteDatabase

Clock = Callable[[], datetime]


@dataclass(slots=True)
class Lease:
    """The right to write what controllers write, while the `Ledger.lead` block lasts.

    Set `reason` to say in the chain why the controller stopped.
    """

    ledger: Ledger
    epoch: int
    reason: str = field(default="finished")

    def append(self, events: Sequence[Event]) -> list[Recorded]:
        """`Ledger.append` under this lease's epoch."""
        return self.ledger.append(events, epoch=self.epoch)


class Ledger:
    """A campaign's ledger, in a SQLite file or in PostgreSQL. Close it, or use it in a `with` block.

    It may be used by several threads. A forked child must open its own.
    """

    def __init__(self, place: Database, clock: Clock) -> None:
        self.database = place
        self._clock = clock

    @property
    def where(self) -> Path | str:
        """What opens the same ledger again: a file, or an address."""
        return self.database.where

    @classmethod
    def create(cls, where: Path | str, *, campaign: str, challenge_name: str, clock: Clock = utc_now) -> Ledger:
        """Make a new ledger: afterwards it is there whole, or (if this is killed) not at all.

        Args:
            where: a file, or the address of a PostgreSQL database (`postgresql://HOST/DATABASE?schema=NAME`).
            campaign: its random name.
            challenge_name: of the challenge.
            clock: what time it is.

        Raises:
            ConflictError: if there is something at that place.
            HostError: if the file would lie on a network file system, or the place cannot be written.
            ConfigurationError: if the address is not usable.
        """
        created = LedgerCreated(campaign=campaign, challenge_name=challenge_name)
        with cls(database_at(where), clock) as made:

            def fill(connection: Connection) -> None:
                bring_up_to_date(connection)
                made._write(connection, [created], None)

            made.database.create(fill)
        return cls.open(where, clock=clock)

    @classmethod
    def open(cls, where: Path | str, *, clock: Clock = utc_now) -> Ledger:
        """Open a ledger, and bring it up to date if an older version of Referee wrote it.

        Raises:
            LedgerError: if there is none, or a newer version wrote it.
            HostError: if it lies on a network file system, or its database cannot be reached.
            ConfigurationError: if the address is not usable.
        """
        ledger = cls(database_at(where), clock)
        try:
            ledger.database.require()
            with ledger.read() as connection:
                version = version_of(connection)
            if version != NEWEST:
                ledger._migrate()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Let go of the file or the connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self) -> AbstractContextManager[Connection]:
        """A reading transaction: one unchanging state of the ledger, for `queries`."""
        return self.database.reading()

    # Writing

    def append(
        self, events: Sequence[Event], *, epoch: int | None = None, identities: Sequence[Identity] = ()
    ) -> list[Recorded]:
        """Add events at the end of the chain: all of them, or none. The only way to write.

        Args:
            events: what happened, in order.
            epoch: the controller's epoch, for what only a controller may say.
            identities: the names behind the submissions that these events import.

        Raises:
            ConflictError: if another controller has taken over since `epoch`, that lease has ended, or the ledger was
                moved to another place.
            ConnectionLostError: if the database went away; whether this was written shows when it is back.
            LedgerError: if an event does not fit what happened before it.
        """
        for event in events:
            if isinstance(event, LedgerCreated | ControllerStarted | LedgerMoved | LedgerArrived):
                raise LedgerError(
                    f"{event.kind} is written by the ledger itself.",
                    hint="Use `Ledger.create`, `Ledger.lead` or `relocate`.",
                )
            if event.by_controller and epoch is None:
                raise LedgerError(
                    f"{event.kind} may only be written by the controller that holds the lease.",
                    hint="Use `Ledger.lead` and give its epoch.",
                )
        with self.database.writing(leading=epoch is not None) as connection:
            if epoch is not None:
                _check_epoch(connection, epoch)
            for identity in identities:
                connection.execute(insert(IDENTITIES).values(**_columns(identity)))
            written = self._write(connection, events, epoch)
            _check_commitments(events, identities)
        return written

    def _write(self, connection: Connection, events: Sequence[Event], epoch: int | None) -> list[Recorded]:
        last = read_last(connection)
        first = events[0] if events else None
        if last is not None and last.kind == LedgerMoved.kind and not isinstance(first, LedgerArrived):
            raise self._moved(last)
        head = Head(last.seq, last.hash) if last else EMPTY
        links: list[Link] = []
        for event in events:
            link = next_link(head, self._clock(), epoch, event.kind, event.payload())
            links.append(link)
            head = Head(link.seq, link.hash)
        if links:
            connection.execute(insert(EVENTS), [_columns(link) for link in links])
        for link, event in zip(links, events, strict=True):
            projections.apply(connection, link, event)
        return [recorded(link, event) for link, event in zip(links, events, strict=True)]

    def leave(self, move: str, to: Literal["sqlite", "postgresql"]) -> None:
        """Close the chain, which goes on elsewhere; for whoever holds the controller's lock (`relocation`)."""
        with self.database.writing(leading=True) as connection:
            self._write(connection, [LedgerMoved(move=move, to=to)], None)

    def arrive(self, connection: Connection, move: str, *, abandoned: str = "") -> None:
        """Open the chain again after a move, or because it was abandoned, in a transaction of the caller."""
        self._write(connection, [LedgerArrived(move=move, abandoned=abandoned)], None)

    def _moved(self, last: Link) -> ConflictError:
        place = (
            self.database.signpost()
            or {"sqlite": "a SQLite file", "postgresql": "PostgreSQL"}[str(json.loads(last.payload)["to"])]
        )
        return ConflictError(
            f"This ledger ({self.database.name}) was moved to {place}; it can be read, but nothing is added here.",
            hint="Let [ledger] in challenge.toml name the new place (`url`; without one, the ledger is the file).",
        )

    @contextmanager
    def lead(self, *, host: str | None = None) -> Iterator[Lease]:
        """Be the controller while the block lasts: take the lock, and begin a new epoch.

        Raises:
            ConflictError: at once, if another controller holds the lock; it names process and host.
        """
        name = host or socket.gethostname()
        lock = self.database.lock()
        lock.acquire(name)
        try:
            lease = Lease(self, self._begin_epoch(name))
            try:
                yield lease
            except BaseException as error:
                lease.reason = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
                # What ended the block counts more; and what the chain does not say now, the next start says.
                with suppress(ConnectionLostError):
                    self._end_epoch(lease)
                raise
            self._end_epoch(lease)
        finally:
            lock.release()

    def _begin_epoch(self, host: str) -> int:
        with self.database.writing(leading=True) as connection:
            newest = _newest_controller(connection)
            epoch = (newest[0] if newest else 0) + 1
            started = ControllerStarted(epoch=epoch, host=host, pid=os.getpid(), boot_id=boot_id())
            self._write(connection, [started], epoch)
        return epoch

    def _end_epoch(self, lease: Lease) -> None:
        try:
            lease.append([ControllerStopped(epoch=lease.epoch, reason=lease.reason)])
        except ConflictError:
            # Somebody took over in spite of the lock; the chain says so already, and this controller is gone.
            return

    # Reading and checking

    def head(self) -> Head:
        """The chain's last link."""
        with self.read() as connection:
            return read_head(connection)

    def events(self, *kinds: type[Event], after: int = 0) -> list[Recorded]:
        """Events in order: all, or those of the given kinds, with a `seq` above `after`."""
        wanted = select(EVENTS).where(EVENTS.c.seq > after).order_by(EVENTS.c.seq)
        if kinds:
            wanted = wanted.where(EVENTS.c.kind.in_([kind.kind for kind in kinds]))
        with self.read() as connection:
            return [recorded(read_link(row)) for row in connection.execute(wanted)]

    def links(self) -> list[Link]:
        """The chain as it is stored, for whoever checks or exports it."""
        with self.read() as connection:
            return list(read_links(connection))

    def verify(self) -> Head:
        """Check everything: the chain, that each event can be read, the names' commitments, and the projections.

        Returns:
            The head of the sound chain.

        Raises:
            LedgerError: naming the first thing that is wrong.
        """
        with self.read() as connection:
            return soundness.check(connection)

    def rebuild(self) -> None:
        """Make every projection again from the chain, after checking the chain."""
        with self.database.writing() as connection:
            verify_links(read_links(connection))
            soundness.rebuild(connection)

    def _migrate(self) -> None:
        # A controller of the older version must not write while its tables change.
        lock = self.database.lock()
        lock.acquire(socket.gethostname())
        try:
            with self.database.writing(leading=True) as connection:
                bring_up_to_date(connection)
                soundness.rebuild(connection)
        finally:
            lock.release()


def database_at(where: Path | str) -> Database:
    """The database at a place: PostgreSQL for an address, SQLite for a file.

    Raises:
        ConfigurationError: if the address is not usable, or psycopg is not installed.
        HostError: if the file lies on a network file system.
    """
    if isinstance(where, Path):
        return SqliteDatabase(where)
    if not is_address(where):
        raise ConfigurationError(
            "The ledger's url is not the address of a PostgreSQL database.",
            hint="Write it as postgresql://USER@HOST:PORT/DATABASE, or leave it out to keep the ledger in a file.",
        )
    try:
        # Most challenges need no psycopg, and it need not be installed for them.
        from referee.ledger.postgresql import PostgresqlDatabase  # noqa: PLC0415 - see above
    except ImportError as error:
        raise ConfigurationError(
            "The ledger is in PostgreSQL, and the driver for it is not installed.",
            hint="Install it with `pip install 'referee[postgresql]'`.",
        ) from error
    return PostgresqlDatabase(where)


def _columns(thing: Link | Identity) -> dict[str, object]:
    return {name: getattr(thing, name) for name in thing.__slots__}


def _newest_controller(connection: Connection) -> tuple[int, str, int, str | None] | None:
    table = CONTROLLERS.c
    newest = select(table.epoch, table.host, table.pid, table.stopped_at).order_by(table.epoch.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else (row.epoch, row.host, row.pid, row.stopped_at)


def _check_epoch(connection: Connection, epoch: int) -> None:
    newest = _newest_controller(connection)
    if newest is None or epoch > newest[0]:
        raise LedgerError(f"No controller ever had the epoch {epoch}.", hint="Take the lease with `Ledger.lead`.")
    current, host, pid, stopped_at = newest
    if epoch < current:
        raise ConflictError(
            f"Another controller took over: process {pid} on {host} (epoch {current}; this one is {epoch}).",
            hint="Leave the campaign to that one; this one has stopped writing.",
        )
    if stopped_at is not None:
        raise ConflictError(f"The lease of epoch {epoch} has ended.", hint="Start again with `referee run`.")


def _check_commitments(events: Sequence[Event], identities: Sequence[Identity]) -> None:
    imported = {e.submission: e for e in events if isinstance(e, SubmissionImported | SubmissionRefused)}
    for identity in identities:
        event = imported.get(identity.submission)
        if event is None or (event.team, event.identity_commitment) != (identity.team, identity.commitment):
            raise LedgerError(
                f"The names given for {identity.submission} are not those that the chain commits to.",
                hint="This is a defect of Referee; nothing was written. Please report it.",
            )
