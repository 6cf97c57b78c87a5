"""The ledger in PostgreSQL: a schema for each campaign, for challenges that outgrow one machine's disk.

It is told by its address: libpq's URI, and the schema as one parameter more (`postgresql://HOST/DATABASE?schema=NAME`).
A password never stands in it: challenge files are copied and committed, and every user sees command lines. libpq finds
it in `PGPASSFILE` (`~/.pgpass`), `PGPASSWORD`, a service file, or needs none (peer, certificates).

Writers queue for an advisory lock, and read the chain's head only when they have it. The controller's lock is another
one, of a session: it goes with the session, and what the controller writes goes through that very session, so that a
controller that lost its connection has lost both.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError

from referee.boot import boot_id
from referee.errors import ConfigurationError, ConflictError, HostError, LedgerError
from referee.ledger import database
from referee.ledger.database import ConnectionLostError, MissingLedgerError

# What PostgreSQL keeps for itself, and the schema that belongs to everybody.
_RESERVED = re.compile(r"pg_.*|information_schema|public")
_LONGEST_NAME_BYTES = 63
_MOVED = "This ledger of Referee was moved to "

# A server needs an instant to see that a controller was killed. While the holder lives nobody waits.
_GRACE_SECONDS = 5.0

# Both ends notice within half a minute that the other one is gone, however it went: the server, so that a dead
# controller's lock is free; the client, so that it does not wait for an answer that will never come.
_IDLE_SECONDS, _PROBE_SECONDS, _PROBES = 10, 5, 3
_CLIENT = {
    "connect_timeout": "10",
    "keepalives_idle": str(_IDLE_SECONDS),
    "keepalives_interval": str(_PROBE_SECONDS),
    "keepalives_count": str(_PROBES),
    "tcp_user_timeout": str(1000 * (_IDLE_SECONDS + _PROBE_SECONDS * _PROBES)),
    "application_name": "referee",
}
_SESSION = f"""
SELECT set_config('search_path', quote_ident(%s), false),
       set_config('tcp_keepalives_idle', '{_IDLE_SECONDS}', false),
       set_config('tcp_keepalives_interval', '{_PROBE_SECONDS}', false),
       set_config('tcp_keepalives_count', '{_PROBES}', false),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit')
           WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""


class PostgresqlDatabase:
    """A ledger in a schema of a PostgreSQL database.

    Args:
        url: the address, with its schema.

    Raises:
        ConfigurationError: if the address is not usable, or holds a password; it is not printed then.
    """

    def __init__(self, url: str) -> None:
        self.where = url
        self._parameters, self._schema = _read_address(url)
        self._engine = create_engine("postgresql+psycopg://", creator=self._connect, pool_pre_ping=True)
        self._session: _Session | None = None

    @property
    def name(self) -> str:
        """The address."""
        return self.where

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(make_conninfo(**{**_CLIENT, **self._parameters}))
        _CONNECTIONS.add(connection)
        connection.execute(_SESSION, (self._schema,))
        connection.commit()
        return connection

    def require(self) -> None:
        """Look for the table of events."""
        with self.reading() as connection:
            if not _has_ledger(connection):
                raise MissingLedgerError(
                    f"There is no ledger at {self.name}.",
                    hint="Begin with `referee submissions import`, in the challenge's folder.",
                )

    def create(self, fill: Callable[[Connection], None], *, set_aside: str | None = None) -> None:
        """Make the schema and what `fill` writes in one transaction."""
        with self.writing() as connection:
            encoding = connection.scalar(text("SHOW server_encoding"))
            if encoding != "UTF8":
                raise ConfigurationError(
                    f"The database of {self.name} keeps text as {encoding}.",
                    hint="Make one with `createdb --encoding=UTF8 --template=template0`.",
                )
            schema = connection.dialect.identifier_preparer.quote_identifier(self._schema)
            if _has_ledger(connection):
                if set_aside is None:
                    raise ConflictError(f"There is a ledger at {self.name} already.", hint="Go on with that one.")
                other = f"{self._schema.encode()[: _LONGEST_NAME_BYTES - len(set_aside) - 1].decode()}.{set_aside}"
                preparer = connection.dialect.identifier_preparer
                connection.exec_driver_sql(f"ALTER SCHEMA {schema} RENAME TO {preparer.quote_identifier(other)}")
            # IF NOT EXISTS would ask for the right to make schemas where an administrator has made this one.
            found = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
            if connection.scalar(found, {"name": self._schema}) is None:
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
            fill(connection)

    @contextmanager
    def writing(self, *, leading: bool = False) -> Iterator[Connection]:
        """A transaction that waits for the writers' advisory lock first; each statement then sees what is committed."""
        session = self._session if leading else None
        with self._translated():
            if session is not None:
                with session.transaction() as connection:
                    self._queue(connection)
                    yield connection
            else:
                with (
                    self._engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
                    connection.begin(),
                ):
                    self._queue(connection)
                    yield connection

    def _queue(self, connection: Connection) -> None:
        connection.execute(
            text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{database.BUSY_SECONDS * 1000:.0f}ms"}
        )
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._key("writer")})

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction on one snapshot that cannot write."""
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with (
            self._translated(),
            self._engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    def lock(self) -> SessionLock:
        """An advisory lock of a session of its own."""
        return SessionLock(self)

    def signpost(self) -> str | None:
        """The comment on the schema."""
        with self.reading() as connection:
            comment = text("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = :name")
            found: str | None = connection.scalar(comment, {"name": self._schema})
        return found.removeprefix(_MOVED) if found and found.startswith(_MOVED) else None

    def put_signpost(self, place: str) -> None:
        """Put that comment there."""
        with self._translated(), self._engine.begin() as connection:
            preparer = connection.dialect.identifier_preparer
            words = sql.Literal(_MOVED + place).as_string().replace(":", r"\:")
            connection.execute(text(f"COMMENT ON SCHEMA {preparer.quote_identifier(self._schema)} IS {words}"))

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()

    def _key(self, purpose: str) -> int:
        """An advisory lock's number: such locks are the database's, so the schema is part of it."""
        seed = f"referee {purpose} {self._schema}".encode()
        return int.from_bytes(hashlib.sha256(seed).digest()[:8], "big", signed=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise _explained(error, self.name) from error
        except psycopg.Error as error:
            # On the way to a connection SQLAlchemy wraps errors; in the making of a session it does not.
            raise _explained(DatabaseError(None, None, error), self.name) from error


class SessionLock:
    """The controller's lock: an advisory lock of a session that lasts as long as the lock is held."""

    def __init__(self, place: PostgresqlDatabase) -> None:
        self._place = place

    def acquire(self, host: str) -> None:  # noqa: ARG002 - the chain and the session say who holds it
        """Take the lock, or refuse at once while its holder lives.

        Raises:
            ConflictError: naming the process and the host that hold it.
        """
        place = self._place
        deadline = time.monotonic() + _GRACE_SECONDS
        while True:
            with place._translated():
                session = _Session.begin(place._engine.connect(), place._key("controller"), place.name)
            if session is not None:
                place._session = session
                return
            who, lives = self._holder()
            if lives or time.monotonic() > deadline:
                raise ConflictError(
                    f"Another controller is at work on this challenge: {who}.",
                    hint="Wait for it to end, or end it (Ctrl-C); `referee status` shows how far it is.",
                )
            time.sleep(0.05)

    def release(self) -> None:
        """End the session, and the lock with it."""
        session, self._place._session = self._place._session, None
        if session is not None:
            session.end()

    def _holder(self) -> tuple[str, bool]:
        """Who holds the lock as far as the chain tells, and whether it is known to live, or may."""
        with self._place.reading() as connection:
            newest = text("SELECT host, pid, boot_id, stopped_at FROM controllers ORDER BY epoch DESC LIMIT 1")
            row = connection.execute(newest).one_or_none()
        if row is None or row.stopped_at is not None:
            return "it has not yet written who it is", False
        here = row.boot_id == boot_id()
        return f"process {row.pid} on {row.host}", not here or Path(f"/proc/{row.pid}").exists()


class _Session:
    """The connection that holds the controller's lock. It is never replaced by another one."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._driver = connection.connection.dbapi_connection
        self._name = name
        self._one_at_a_time = threading.Lock()

    @classmethod
    def begin(cls, connection: Connection, key: int, name: str) -> _Session | None:
        """The session, if it has the lock now; else the connection is given back."""
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        try:
            with connection.begin():
                locked = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key})
        except BaseException:
            connection.close()
            raise
        if not locked:
            connection.close()
            return None
        return cls(connection, name)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction of this session, whose commit proves that the lock was held."""
        with self._one_at_a_time:
            # SQLAlchemy would connect anew, without the lock.
            if self._connection.invalidated or self._connection.connection.dbapi_connection is not self._driver:
                raise _lost(self._name)
            with self._connection.begin():
                yield self._connection

    def end(self) -> None:
        """Close the connection for good, so that the lock does not go into a pool with it."""
        with suppress(DBAPIError, psycopg.Error):
            self._connection.invalidate()
        self._connection.close()


# A forked child shares the connections' sockets: after the controller was killed, the server would wait for children
# that outlive it, and keep its lock. What a child has is turned into nothing, without a word to the server.
_CONNECTIONS: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()


def _forget_all() -> None:
    for connection in list(_CONNECTIONS):
        with suppress(psycopg.Error, OSError):
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, connection.fileno(), inheritable=False)
            os.close(nothing)


os.register_at_fork(after_in_child=_forget_all)


def _read_address(url: str) -> tuple[dict[str, str], str]:
    try:
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        schema = [value for name, value in query if name == "schema"]
        rest = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in query if n != "schema")
        parameters = conninfo_to_dict(f"{url.partition('?')[0]}?{rest}")
    except (ValueError, psycopg.Error):
        # The reasons that parsers give quote what they could not read, and a password may be part of it.
        raise ConfigurationError(
            "The ledger's url is not one that PostgreSQL understands (it is not printed: it may hold a password).",
            hint="Write it as postgresql://USER@HOST:PORT/DATABASE?schema=NAME.",
        ) from None
    if "password" in parameters or "sslpassword" in parameters or "@" in str(parameters.get("host", "")):
        raise ConfigurationError(
            "The ledger's url holds a password, which others would read in files and lists of processes.",
            hint="Leave it out: put it into ~/.pgpass (or the file that PGPASSFILE names), or use a service file.",
        )
    if not re.fullmatch(r"[0-9,]*", str(parameters.get("port", ""))):
        raise ConfigurationError("The port in the ledger's url is not a number.", hint="Write it as HOST:5432.")
    if len(schema) != 1 or not schema[0] or len(schema[0].encode()) > _LONGEST_NAME_BYTES or "\0" in schema[0]:
        raise ConfigurationError(
            "The ledger's url must name one schema, of at most 63 bytes.", hint="Add ?schema=NAME to it."
        )
    if _RESERVED.fullmatch(schema[0]):
        raise ConfigurationError(
            f"The schema {schema[0]!r} is PostgreSQL's own, or everybody's.",
            hint="Name one for this campaign alone, with ?schema=NAME.",
        )
    return {name: str(value) for name, value in parameters.items() if value is not None}, schema[0]


def _has_ledger(connection: Connection) -> bool:
    found = text("SELECT to_regclass(quote_ident(current_schema()) || '.events') IS NOT NULL")
    return bool(connection.scalar(found))


def _lost(name: str, why: str = "") -> ConnectionLostError:
    return ConnectionLostError(
        f"The connection to the ledger's database ({name}) was lost{f': {why}' if why else ''}.",
        hint="Nothing more is written by this program. When the database is back, start again: `referee run` goes on,"
        " and what was committed is there.",
    )


def _explained(error: DBAPIError, name: str) -> HostError | ConflictError | LedgerError:
    driver = error.orig if isinstance(error.orig, psycopg.Error) else None
    state = (driver.sqlstate if driver else None) or ""
    why = _first_line(error)
    if error.connection_invalidated or state.startswith("08") or state in {"57P01", "57P02", "57P05"}:
        return _lost(name, why)
    if isinstance(driver, psycopg.OperationalError) and (not state or state in {"57P03", "28000", "28P01", "3D000"}):
        return ConnectionLostError(
            f"The ledger's database ({name}) cannot be reached: {why}.",
            hint="Check that its server runs, its address, and your rights; passwords are read from ~/.pgpass.",
        )
    if state in {"55P03", "40P01", "40001"}:
        return ConflictError(
            f"Another program held the ledger's write lock for more than {database.BUSY_SECONDS:g} seconds.",
            hint="Find out which one (`SELECT * FROM pg_locks WHERE locktype = 'advisory'`), end it, and try again.",
        )
    if state.startswith(("53", "58")) or state in {"42501", "25006", "54000"}:
        return HostError(
            f"The ledger cannot be read or written at {name}: {why}.",
            hint="Check the server's room and whether it is a standby, and that your role owns the schema.",
        )
    if isinstance(error, IntegrityError):
        return LedgerError(
            f"The ledger refused an event that does not fit what it holds: {why}.",
            hint="This is a defect of Referee; nothing was written. Please report it.",
        )
    return LedgerError(f"The ledger's database refused: {why}.", hint="Check it with `referee ledger verify`.")


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or ["no reason was given"])[0].rstrip(".")
