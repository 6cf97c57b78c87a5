"""The warden: root's part on a cluster's node. It starts the installed worker for users who may ask, inside their job.

A cluster runs jobs as ordinary users, who can neither limit nor isolate what they start. An administrator starts one
warden on each node (`python -m referee.worker.warden /etc/referee/warden.toml`). It listens on a Unix socket, asks the
kernel who is calling and which Slurm job's control groups hold him, and forks a worker into those groups: Slurm's
limits hold it, and Slurm ends it. Nothing else can be asked for. The worker reaches the user's object store through
the user's own process (`broker`), so that root opens no path that a user named.

It has one thread and runs nothing of a user's itself. Its death ends no worker; the next one sweeps what was left.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pwd
import resource
import select
import signal
import socket
import stat
import sys
import time
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from referee import __version__
from referee.challenge import Frozen
from referee.errors import ConfigurationError, ConflictError, RefereeError
from referee.sandbox.gpus import allowed_gpus
from referee.units import Size
from referee.worker.broker import LOCATION
from referee.worker.cell import Caller, caller, join, within
from referee.worker.errand import SOCKET
from referee.worker.leftovers import clear_dead, clear_if_dead
from referee.worker.lock import take_lock, write_holder
from referee.worker.main import ANOTHERS, Order, holder, run_worker
from referee.worker.run import Place
from referee.worker.supervise import hold_back_sigterm

_REQUEST_BYTES = 64 << 10
_WORDS_BYTES = 4096
_GRACE_SECONDS = 20.0
_SWEEP_SECONDS = 0.2
_BROKEN = 70
_TURNED_AWAY = 64


class WardenSettings(Frozen):
    """The warden's file, which only root may write.

    Attributes:
        users: names of those who may ask for workers.
        socket: where it listens.
        node_folder: on a local disk; each user has a folder of his own below it.
        cache: the most that each user's unpacked images may take.
        data: the most that each user's phases may take.
        accepted_risks: promises of the sandbox that attempts may do without here.
        gpus: whether workers get GPUs: those that the job's control group allows, so only with ConstrainDevices=yes.
        connections: the most connections of one user at a time.
    """

    users: tuple[str, ...]
    socket: Path = SOCKET
    node_folder: Path = Path("/var/lib/referee")
    cache: Size = 50 * 2**30
    data: Size = 200 * 2**30
    accepted_risks: tuple[str, ...] = ()
    gpus: bool = False
    connections: int = 256


class Request(Frozen):
    """What a user's process asks for; with it comes one end of a pair of sockets (`broker`).

    Without an attempt it only asks whether it would be served.
    """

    attempt: str = ""
    job: str = ""
    node: str = ""


def load_settings(path: Path) -> WardenSettings:
    """Read the warden's file.

    Raises:
        ConfigurationError: if it cannot be read, says what is not known, or others than root may write it.
    """
    try:
        facts = path.stat()
        if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigurationError(
                f"{path} can be written by others.", hint=f"Type: chown root {path}; chmod 644 {path}"
            )
        return WardenSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigurationError(
            f"{path} cannot be used: {error}.", hint="See docs/slurm.md for an example."
        ) from error


@dataclass(slots=True)
class _Guest:
    """One connection, and the worker that was started for it."""

    connection: socket.socket
    uid: int
    attempt: str = ""
    worker: int = 0
    process: int = -1
    words: int = -1
    said: bytes = b""
    deadline: float | None = None
    unwelcome: str = ""
    gone: bool = False


@dataclass(slots=True)
class Warden:
    """Serves one socket."""

    settings: WardenSettings
    _uids: frozenset[int] = frozenset()
    _guests: list[_Guest] = field(default_factory=list)
    _dirty: set[tuple[Path, str]] = field(default_factory=set)
    _complained: set[str] = field(default_factory=set)

    def serve(self) -> NoReturn:
        """Until it is ended."""
        self._uids = frozenset(_uid(name) for name in self.settings.users)
        for uid in self._uids:
            clear_dead(self._folder(uid))
        listener = _listen(self.settings.socket)
        print(f"warden: listening on {self.settings.socket}", flush=True)
        while True:
            self._turn(listener)

    def _turn(self, listener: socket.socket) -> None:
        for descriptor, guest in self._ready(listener):
            if guest is None:
                self._welcome(listener)
            elif descriptor == guest.words:
                self._hear(guest)
            elif descriptor == guest.process:
                self._bury(guest)
            elif not guest.gone:
                self._listen(guest)
        for guest in self._guests:
            if guest.deadline and time.monotonic() > guest.deadline:
                self._signal(guest, signal.SIGKILL)
        self._guests = [guest for guest in self._guests if not (guest.gone and guest.process < 0)]
        self._sweep()

    def _ready(self, listener: socket.socket) -> list[tuple[int, _Guest | None]]:
        """The descriptors that have something to say, and whose they are."""
        sources: dict[int, _Guest | None] = {listener.fileno(): None}
        for guest in self._guests:
            own = (-1 if guest.gone else guest.connection.fileno(), guest.process, guest.words)
            sources |= dict.fromkeys((descriptor for descriptor in own if descriptor >= 0), guest)
        poller = select.poll()  # unlike select(2) it has no highest descriptor, beyond which a user could push it
        for descriptor in sources:
            poller.register(descriptor, select.POLLIN)
        hurry = self._dirty or any(guest.deadline for guest in self._guests)
        return [(found, sources[found]) for found, _ in poller.poll(_SWEEP_SECONDS * 1000 if hurry else None)]

    def _welcome(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # it went away, or there are no descriptors left: those that are there end
        connection.setblocking(False)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        guest = _Guest(connection, uid)
        if uid not in self._uids:
            guest.unwelcome = "You are not among the users of this warden. Ask the administrator."
        elif sum(other.uid == uid for other in self._guests) >= self.settings.connections:
            guest.unwelcome = "You have too many connections."
        self._guests.append(guest)
        self._turn_away()

    def _turn_away(self) -> None:
        """The unwelcome are told why when they have asked: closed before, they would see a connection that was reset.

        Who asks nothing is forgotten when others come.
        """
        unwelcome = [guest for guest in self._guests if guest.unwelcome and not guest.gone]
        for guest in unwelcome[:-_TURNED_AWAY]:
            self._refuse(guest, guest.unwelcome)

    def _listen(self, guest: _Guest) -> None:
        """A request, the wish to stop, or the end of the connection."""
        descriptors: list[int] = []
        try:
            message, descriptors, _, _ = socket.recv_fds(guest.connection, _REQUEST_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        try:
            if not message:
                # Whoever reaches the object store is gone, so nothing could be published any more.
                self._signal(guest, signal.SIGKILL)
                self._close(guest)
            elif guest.worker:
                guest.deadline = guest.deadline or time.monotonic() + _GRACE_SECONDS
                self._signal(guest, signal.SIGTERM)
            else:
                self._start(guest, message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _start(self, guest: _Guest, message: bytes, descriptors: list[int]) -> None:
        if guest.unwelcome:
            self._refuse(guest, guest.unwelcome)
            return
        try:
            request = Request.model_validate_json(message)
            if not request.attempt:
                with caller(guest.connection) as who:
                    gpus = "gives GPUs" if self.settings.gpus else "gives no GPUs"
                    self._answer(guest, {"ready": f"version {__version__}, job {who.job}, {gpus}"})
                return
            if len(descriptors) != 1 or not stat.S_ISSOCK(os.fstat(descriptors[0]).st_mode):
                raise ConfigurationError("A request comes with one socket.", hint="Use the same version everywhere.")
            folder = self._folder(guest.uid)
            with caller(guest.connection) as who:
                lock = take_lock(folder, request.attempt)
                try:
                    self._fork(guest, request, folder, lock, descriptors[0], who)
                finally:
                    os.close(lock)
        except ValidationError:
            self._refuse(guest, "The request cannot be read. Use the same version of Referee everywhere.")
        except ConflictError as error:
            self._answer(guest, {"ended": ANOTHERS, "words": str(error)})
        except (RefereeError, OSError) as error:
            self._refuse(guest, str(error))

    def _fork(self, guest: _Guest, request: Request, folder: Path, lock: int, channel: int, who: Caller) -> None:
        place = Place(
            node=request.node,
            job=request.job,
            cache_bytes=self.settings.cache,
            travelled=True,
            data_bytes=self.settings.data,
            risks=self.settings.accepted_risks,
        )
        order = Order(f"specs/{request.attempt}.json", LOCATION, folder, place, channel=channel)
        words, said = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        hold_back_sigterm()
        try:
            worker = os.fork()
            if worker == 0:
                self._become_worker(order, lock, said, who)
        except OSError:
            os.close(words)
            raise
        finally:
            os.close(said)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        guest.attempt, guest.worker, guest.words = request.attempt, worker, words
        guest.process = os.pidfd_open(worker)

    def _become_worker(self, order: Order, lock: int, said: int, who: Caller) -> NoReturn:
        status = _BROKEN
        try:
            os.setsid()
            os.set_blocking(said, True)
            os.dup2(said, 1)
            os.dup2(said, 2)
            # Of all descriptors only the lock and the channel are the worker's: not the other users' connections.
            for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
                if descriptor > 2 and descriptor not in {lock, order.channel}:
                    with contextlib.suppress(OSError):
                        os.close(descriptor)
            join(who.groups)
            if self.settings.gpus:
                with within(who.devices):
                    order = replace(order, place=replace(order.place, gpus=tuple(allowed_gpus())))
            write_holder(lock, holder(order, os.getpid()))
            status = run_worker(order)
        except BaseException as error:  # noqa: BLE001 - the end of a process: what is not printed here is lost
            print(f"{order.attempt}: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status & 0xFF)

    def _hear(self, guest: _Guest) -> None:
        """What the worker prints: its end is kept, and told to its user."""
        try:
            part = os.read(guest.words, 1 << 16)
        except BlockingIOError:
            return
        if part:
            guest.said = (guest.said + part)[-_WORDS_BYTES:]
        else:
            os.close(guest.words)
            guest.words = -1

    def _bury(self, guest: _Guest) -> None:
        _, status = os.waitpid(guest.worker, 0)
        if guest.words >= 0:
            self._hear(guest)
        if guest.words >= 0:
            os.close(guest.words)
            guest.words = -1
        os.close(guest.process)
        guest.process, guest.deadline = -1, None
        code = os.waitstatus_to_exitcode(status)
        self._dirty.add((self._folder(guest.uid), guest.attempt))
        self._sweep()
        self._answer(guest, {"ended": code if code >= 0 else 128 - code, "words": guest.said.decode(errors="replace")})

    def _sweep(self) -> None:
        """After a worker was killed: its inner process, which is dying, may hold the lock for a moment still."""
        for folder, attempt in list(self._dirty):
            try:
                if clear_if_dead(folder, attempt):
                    self._dirty.discard((folder, attempt))
            except (OSError, RefereeError) as error:
                if attempt not in self._complained:
                    print(f"warden: cannot clear {attempt} yet: {error}", file=sys.stderr, flush=True)
                self._complained.add(attempt)

    def _signal(self, guest: _Guest, number: int) -> None:
        if guest.process >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(guest.process, number)

    def _refuse(self, guest: _Guest, reason: str) -> None:
        self._answer(guest, {"refused": reason})

    def _answer(self, guest: _Guest, facts: dict[str, Any]) -> None:
        if not guest.gone:
            with contextlib.suppress(OSError):
                guest.connection.send(json.dumps(facts).encode())
            self._close(guest)

    def _close(self, guest: _Guest) -> None:
        guest.gone = True
        guest.connection.close()

    def _folder(self, uid: int) -> Path:
        """A user's own: who could name a digest could else run, or read, what another user's attempts left here."""
        return self.settings.node_folder / str(uid)


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise ConfigurationError(f"There is no user {name!r} here.", hint="Correct `users`.") from error


def _listen(place: Path) -> socket.socket:
    """Messages keep their bounds (SOCK_SEQPACKET). Anybody may connect: the kernel says who it is."""
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(place))
    place.chmod(0o666)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def main(arguments: list[str] | None = None) -> int:
    """Serve as the file says that the command line names."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if len(given) != 1:
            raise ConfigurationError("The warden takes one argument: its file.", hint="/etc/referee/warden.toml")
        if os.geteuid() != 0:
            raise ConfigurationError("The warden must be started by root.", hint="See docs/slurm.md.")
        os.umask(0o022)
        os.chdir("/")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # three for each connection, of several users
        settings = load_settings(Path(given[0]))
        settings.node_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        gc.collect()
        gc.freeze()  # what is loaded now stays; a worker that collected garbage would copy all of its pages
        Warden(settings).serve()
    except RefereeError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
