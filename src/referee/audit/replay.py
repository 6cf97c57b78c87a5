"""A ledger in memory, made again from a bundle's chain: no file, no trust, the same rules as when it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine, create_engine, event, insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from referee.audit.archive import wrong
from referee.errors import LedgerError
from referee.ledger import Ledger, LedgerCreated, Link, read_event
from referee.ledger.projections import apply
from referee.ledger.schema import EVENTS, METADATA

Seen = Callable[[Connection, Link], None]
# Compiled once: to build the same statement for each of 30,000 events takes longer than to execute it.
_INSERT = insert(EVENTS).compile(dialect=sqlite.dialect(), column_keys=Link.__slots__)


@contextmanager
def replayed(links: Sequence[Link], on_event: Seen = lambda *_: None) -> Iterator[Ledger]:
    """The ledger that a checked chain adds up to.

    Args:
        links: the chain, after `verify_links`.
        on_event: called after each event, inside the transaction, so that a state in between can be looked at.

    Raises:
        BundleError: naming the first event that cannot be read, or does not fit what happened before it.
    """
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _settings(connection: object, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]  # the driver's own connection

    try:
        METADATA.create_all(engine)
        with engine.begin() as connection:
            for place, link in enumerate(links):
                try:
                    _apply(connection, link, first=place == 0)
                except LedgerError as error:
                    raise wrong(f"Event {link.seq} of the bundle's ledger is wrong: {error.message}") from error
                except (SQLAlchemyError, ValueError, OverflowError, RecursionError, KeyError, TypeError) as error:
                    # What a hostile chain can trip that no honest one does; which of them it was helps nobody.
                    raise wrong(f"Event {link.seq} of the bundle's ledger makes no sense ({link.kind}).") from error
                on_event(connection, link)
        yield _InMemory(engine)
    finally:
        engine.dispose()


class _InMemory(Ledger):
    """A ledger that can be asked, and nothing else: what asks it goes through `read`."""

    def __init__(self, engine: Engine) -> None:
        self._memory = engine

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction on what was replayed."""
        return self._memory.begin()

    def close(self) -> None:
        """Nothing is held open."""


def _apply(connection: Connection, link: Link, *, first: bool) -> None:
    found = read_event(link.kind, link.payload)
    if first != isinstance(found, LedgerCreated):
        raise LedgerError("A chain begins with the ledger's creation, and has only one.", hint="")
    if found.by_controller and link.epoch is None:
        raise LedgerError(f"{link.kind} may only be written by a controller.", hint="")
    connection.exec_driver_sql(str(_INSERT), tuple(getattr(link, name) for name in _INSERT.positiontup or ()))
    apply(connection, link, found)
