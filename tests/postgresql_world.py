"""A real PostgreSQL server for tests: its own folder and Unix socket, nothing on the network but loopback if asked.

It runs as an ordinary user, is a child of this process, and is ended by its process id; should this process be killed,
the kernel ends it.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg

START_SECONDS = 60.0
_PROGRAMS = "/usr/lib/postgresql/*/bin"
# A crash of the server is survived without it; only a power cut is not, and that is not tested here.
_SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "max_connections=60",
    "shared_buffers=32MB",
    "log_min_messages=warning",
)
_ACCESS = "local all guarded scram-sha-256\nlocal all all trust\n"


@dataclass
class Server:
    """The server. `folder` holds its data, its socket and its log."""

    folder: Path
    _process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def address(self) -> str:
        """The address of its database, without a schema."""
        return f"postgresql://referee@/referee?host={quote(str(self.folder), safe='')}"

    def fresh(self, schema: str = "test") -> str:
        """The address of a schema that nobody used before."""
        return f"{self.address}&schema={schema}_{next(self._numbers)}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = itertools.chain.from_iterable(("-c", setting) for setting in _SETTINGS)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *_as_ordinary_user(),
                    program("postgres"),
                    *("-D", str(self.folder / "data"), "-k", str(self.folder), "-h", ""),
                    *settings,
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(f"{self.address}&dbname=postgres", connect_timeout=5).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {self.log()}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT ends every session, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it and start it again."""
        self.stop(how)
        self.start()

    def execute(self, *statements: str, url: str | None = None) -> list[tuple[object, ...]]:
        """What somebody does who has the owner's role and a shell; the rows of the last statement."""
        address, _, schema = (url or self.address).partition("&schema=")
        with psycopg.connect(address) as connection:
            if schema:
                connection.execute(f'SET search_path TO "{schema}"')
            for statement in statements:
                cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def log(self) -> str:
        """The end of what it said."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]


@contextmanager
def server() -> Iterator[Server]:
    """A fresh server with an empty database."""
    folder = Path(tempfile.mkdtemp(prefix="referee-postgresql-"))
    try:
        user = _user()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        subprocess.run(
            [
                *_as_ordinary_user(),
                program("initdb"),
                *("-D", str(folder / "data"), "-U", "referee", "-A", "trust", "-E", "UTF8", "--no-sync"),
                *("--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"),
            ],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        (folder / "data" / "pg_hba.conf").write_text(_ACCESS)
        made = Server(folder)
        made.start()
        try:
            # Its own collation orders text by the rules of English: the ledger must not.
            with psycopg.connect(f"{made.address}&dbname=postgres", autocommit=True) as connection:
                connection.execute("CREATE DATABASE referee")
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """Where one of PostgreSQL's programs is."""
    found = sorted(Path("/").glob(f"{_PROGRAMS[1:]}/{name}"), reverse=True)
    if not found:
        raise RuntimeError("There is no PostgreSQL server here: scripts/system-packages installs one.")
    return str(found[0])


def _user() -> pwd.struct_passwd | None:
    """Whom it runs as, if that is not this process's own user: PostgreSQL refuses to run as root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as_ordinary_user() -> list[str]:
    user = _user()
    if user is None:
        return ["setpriv", "--pdeathsig", "INT"]
    ids = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    return ["setpriv", *ids, "--pdeathsig", "INT"]
