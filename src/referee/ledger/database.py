"""The database below the ledger: what any of them gives, whichever it is.

A writing transaction queues for the chain's end from its first instant; a reading one sees one unchanging state; the
controller's lock keeps a second controller out. `sqlite` and `postgresql` are the two that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from referee.errors import HostError, LedgerError

# How long a writer waits for another one before it gives up.
BUSY_SECONDS = 30.0


class ConnectionLostError(HostError):
    """The database went away, or cannot be reached."""


class MissingLedgerError(LedgerError):
    """There is no ledger at that place."""


class Lock(Protocol):
    """The controller's lock: held by one at a time, and gone with its holder."""

    def acquire(self, host: str) -> None:
        """Take the lock, or refuse with a `ConflictError` that names the holder."""
        ...

    def release(self) -> None:
        """Let go; harmless if it is not held."""
        ...


class Database(Protocol):
    """One ledger's tables. Errors of the database are raised as those of `referee.errors`."""

    @property
    def where(self) -> Path | str:
        """What opens the same ledger again."""
        ...

    @property
    def name(self) -> str:
        """The place in the words of a person; it holds no secret."""
        ...

    def require(self) -> None:
        """Raise a `LedgerError` if there is no ledger."""
        ...

    def create(self, fill: Callable[[Connection], None], *, set_aside: str | None = None) -> None:
        """Make the tables: afterwards they are there with all that `fill` wrote, or (if this is killed) not at all.

        Args:
            fill: writes tables and content.
            set_aside: if there is a ledger, keep it under a name with this ending and make the new one in its place.

        Raises:
            ConflictError: if there is something at that place.
        """
        ...

    def writing(self, *, leading: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that holds the write lock from its first instant; commits at the end, or leaves nothing.

        Args:
            leading: it is the controller that writes, and only as long as its lock holds.
        """
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one unchanging state of the ledger and never waits for a writer."""
        ...

    def lock(self) -> Lock:
        """The controller's lock."""
        ...

    def signpost(self) -> str | None:
        """Where this ledger was moved to, if it was."""
        ...

    def put_signpost(self, place: str) -> None:
        """Say where this ledger was moved to."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
