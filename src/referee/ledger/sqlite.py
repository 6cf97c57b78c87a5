"""The ledger in a SQLite file: settings, transactions, and how a file comes to be whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from referee.durable import sync_folder
from referee.errors import ConflictError, HostError, LedgerError
from referee.ledger import database
from referee.ledger.database import MissingLedgerError
from referee.ledger.file_systems import refuse_network_file_system
from referee.ledger.lease import FILE_NAME as LOCK_NAME
from referee.ledger.lease import ControllerLock


class SqliteDatabase:
    """A ledger in the file `path`, on a local disk of the machine that runs the controller.

    Raises:
        HostError: if the place is on a network file system.
    """

    def __init__(self, path: Path) -> None:
        refuse_network_file_system(path.parent)
        self.where = path
        self._engine = open_engine(path)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.where)

    def require(self) -> None:
        """Refuse to go on without a file, since SQLite would make one."""
        if not self.where.is_file():
            raise MissingLedgerError(
                f"There is no ledger at {self.where}.",
                hint="Begin with `referee submissions import`, in the challenge's folder.",
            )

    def create(self, fill: Callable[[Connection], None], *, set_aside: str | None = None) -> None:
        """Write a draft beside the place, then give it its name."""
        path = self.where
        draft = path.with_name(f".{path.name}.new-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            engine = open_engine(draft)
            try:
                with writing(engine) as connection:
                    fill(connection)
            finally:
                engine.dispose()
            if set_aside is not None and path.exists():
                self._set_aside(path.with_name(f"{path.stem}.{set_aside}{path.suffix}"))
            _publish(draft, path)
        except OSError as error:
            raise HostError(
                f"A ledger cannot be made in {path.parent}: {error.strerror}.",
                hint="Check the folder's permissions and room; its file system must know hard links.",
            ) from error
        finally:
            _sweep_drafts(path)

    def _set_aside(self, other: Path) -> None:
        with self._engine.connect() as connection:
            # What is still in the log goes into the file, which is moved alone.
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self._engine.dispose()
        if self.where.with_name(self.where.name + "-wal").exists():
            # Its log stays as long as somebody has it open, and would be taken for that of the new file.
            raise ConflictError(
                f"Another program has {self.where} open.", hint="End it (`fuser -v` on the file), and try again."
            )
        os.link(self.where, other)
        self.where.unlink()

    @contextmanager
    def writing(self, *, leading: bool = False) -> Iterator[Connection]:  # noqa: ARG002 - the lock dies with this process only
        """A transaction that begins with BEGIN IMMEDIATE."""
        with writing(self._engine) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction on a snapshot of the write-ahead log."""
        with translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    def lock(self) -> ControllerLock:
        """A lock on a file beside the ledger's."""
        return ControllerLock(self.where.with_name(LOCK_NAME))

    def signpost(self) -> str | None:
        """The text of a file beside the ledger's."""
        with suppress(OSError):
            return self._signpost.read_text(encoding="utf-8").strip()
        return None

    def put_signpost(self, place: str) -> None:
        """Write that file."""
        self._signpost.write_text(place + "\n", encoding="utf-8")

    @property
    def _signpost(self) -> Path:
        return self.where.with_name(f"{self.where.name}.moved")

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()


def open_engine(path: Path) -> Engine:
    """An engine on the SQLite file `path`; every connection has the settings that the ledger relies on."""
    # isolation_level=None: the driver must not begin transactions by itself. Left alone it begins one only before the
    # first INSERT, after the head was read: two writers then read the same head, and the chain forks.
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": database.BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        (mode,) = cursor.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise HostError(
                f"SQLite cannot use write-ahead logging at {path} (it uses {mode!r}).",
                hint="Put the challenge on an ordinary local disk.",
            )
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that holds the write lock from its first instant; commits at the end, or leaves nothing."""
    with translated(), engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into sentences."""
    try:
        yield
    except OperationalError as error:
        text = str(error.orig)
        if "locked" in text or "busy" in text:
            raise ConflictError(
                f"Another program held the ledger's write lock for more than {database.BUSY_SECONDS:g} seconds.",
                hint="Find out which one (`fuser -v` on the file), end it, and try again.",
            ) from error
        if "full" in text or "disk I/O" in text or "readonly" in text or "unable to open" in text:
            raise HostError(
                f"The ledger cannot be read or written: {text}.",
                hint="Check the disk's room and the file's permissions.",
            ) from error
        raise LedgerError(
            f"The ledger's database refused: {text}.", hint="Check it with `referee ledger verify`."
        ) from error
    except IntegrityError as error:
        raise LedgerError(
            f"The ledger refused an event that does not fit what it holds: {error.orig}.",
            hint="This is a defect of Referee; nothing was written. Please report it.",
        ) from error
    except DatabaseError as error:
        raise LedgerError(
            f"The ledger's file is damaged: {error.orig}.", hint="Restore it from a copy; keep this one to look at."
        ) from error


def _publish(draft: Path, path: Path) -> None:
    try:
        # A link, not a rename: it fails where something is.
        os.link(draft, path)
    except FileExistsError as error:
        raise ConflictError(f"There is a ledger at {path} already.", hint="Go on with that one.") from error
    sync_folder(path.parent)


def _sweep_drafts(path: Path) -> None:
    for draft in path.parent.glob(f".{path.name}.new-*"):
        owner = int(draft.name.split(".new-")[1].split("-")[0])
        if owner == os.getpid() or not Path(f"/proc/{owner}").exists():
            draft.unlink(missing_ok=True)
