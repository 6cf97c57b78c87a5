"""The database below the ledger: how it is opened, what a transaction is, which places and versions are refused.

SQLite now. What another database needs in its stead is in this file (and the triggers in its migration):
`open_engine`, and the statement with which a writing transaction begins, so that writers queue for the chain's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from referee.errors import ConflictError, HostError, LedgerError

BUSY_SECONDS = 30

# SQLite's locks and its shared memory are not kept across hosts (https://www.sqlite.org/wal.html, section 1).
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "afs",
        "beegfs",
        "nfs4",
        "smb3",
        "nfs",
        "smbfs",
        "ncpfs",
        "lustre",
        "gpfs",
        "orangefs",
        "pvfs2",
        "glusterfs",
        "ceph",
        "coda",
        "cifs",
    }
)
_NETWORK_FUSE = frozenset(
    {
        "beegfs",
        "gcsfuse",
        "s3fs",
        "juicefs",
        "seaweedfs",
        "davfs",
        "moosefs",
        "rclone",
        "goofys",
        "smbnetfs",
        "glusterfs",
        "ceph",
        "mount-s3",
        "sshfs",
    }
)


def file_system_of(path: Path, mountinfo: str | None = None) -> str:
    """The type of the file system that `path` lies on, as the kernel names it (`proc(5)`, mountinfo)."""
    text = (
        Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        if mountinfo is None
        else mountinfo
    )
    place = path.resolve()
    best, found = -1, "unknown"
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        mount = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        # Of several mounts on the same place the last one is on top.
        if place.is_relative_to(mount) and len(mount.parts) >= best:
            best, found = len(mount.parts), after.split()[0]
    return found


def refuse_network_file_system(folder: Path) -> None:
    """Refuse a place where SQLite's locks cannot be trusted.

    Raises:
        HostError: naming the file system.
    """
    kind = file_system_of(folder)
    if kind in NETWORK_FILE_SYSTEMS or kind.removeprefix("fuse.") in _NETWORK_FUSE:
        raise HostError(
            f"{folder} lies on a network file system ({kind}), where SQLite's locks do not hold between hosts.",
            hint="Put the challenge on a local disk of the machine that runs the controller.",
        )


def open_engine(path: Path) -> Engine:
    """An engine on the SQLite file `path`; every connection has the settings that the ledger relies on."""
    # isolation_level=None: the driver must not begin transactions by itself. Left alone it begins one only before the
    # first INSERT, after the head was read: two writers then read the same head, and the chain forks.
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"isolation_level": None, "timeout": BUSY_SECONDS, "check_same_thread": False},
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
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one unchanging state of the ledger and never waits for a writer."""
    with translated(), engine.connect() as connection, connection.begin():
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
                f"Another program held the ledger's write lock for more than {BUSY_SECONDS} seconds.",
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
