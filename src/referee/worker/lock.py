"""The folder and the lock of one attempt on a node: held as long as its worker lives, and the one sign that it does.

A process id says nothing (it is reused, and a worker's is 1 in its own namespace); the kernel frees a lock when the
last process that holds it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from referee.errors import ConfigurationError, ConflictError

LOCK_NAME = "lock"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}", re.ASCII)
_GLANCE_SECONDS = 0.1  # whoever only looks whether the lock is free holds it for a moment


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an attempt's lock, and what of the machine it was given.

    Attributes:
        pid, started_ticks: of the worker's outer process; together they name it for ever (proc(5), starttime).
        boot_id: the boot to which the two belong.
        job: the engine's name for it.
        cpus: the processors that the attempt has to itself; empty for a share of all.
        gpus: the GPUs (UUIDs) that it has to itself.
        memory_bytes: the memory that is set aside for it.
    """

    pid: int
    started_ticks: int
    boot_id: str
    job: str
    cpus: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    memory_bytes: int = 0


def run_folder(node_folder: Path, attempt: str) -> Path:
    """Where everything of `attempt` lies on this node.

    Raises:
        ConfigurationError: if the name could lead elsewhere.
    """
    if not _NAME.fullmatch(attempt):
        raise ConfigurationError(f"{attempt!r} is not an attempt's name.", hint="Attempts are named by Referee itself.")
    return node_folder / "run" / attempt


def box_folder(folder: Path) -> Path:
    """The part of an attempt's folder that belongs to its sandbox."""
    return folder / "box"


def take_lock(node_folder: Path, attempt: str) -> int:
    """Hold the attempt's lock; returns the descriptor that holds it, which children made by fork share.

    Raises:
        ConflictError: if a worker holds it.
    """
    folder = run_folder(node_folder, attempt)
    deadline = time.monotonic() + _GLANCE_SECONDS
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # swept between the two lines
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() < deadline:
                time.sleep(0.005)
                continue
            raise ConflictError(
                f"A worker runs the attempt {attempt} on this node already.", hint="Wait for it to end."
            ) from None
        if _is_at(descriptor, folder / LOCK_NAME):
            return descriptor
        os.close(descriptor)  # the lock of a folder that was swept while we waited for it


def write_holder(descriptor: int, holder: Holder) -> None:
    """Say in the lock's file who holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)


def is_held(node_folder: Path, attempt: str) -> bool:
    """Whether a worker of `attempt` lives on this node. The lock itself is left alone."""
    return _is_locked(run_folder(node_folder, attempt) / LOCK_NAME)


def read_holder(node_folder: Path, attempt: str) -> Holder | None:
    """Who holds the attempt's lock; `None` if nobody does, or has not said so yet."""
    lock = run_folder(node_folder, attempt) / LOCK_NAME
    if not _is_locked(lock):
        return None
    try:
        facts = json.loads(lock.read_bytes())
        return Holder(**(facts | {"cpus": tuple(facts["cpus"]), "gpus": tuple(facts["gpus"])}))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def attempts_on(node_folder: Path) -> list[str]:
    """The attempts that have a folder on this node, whether their worker lives or not."""
    try:
        return sorted(entry.name for entry in os.scandir(node_folder / "run") if _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; `None` if there is none (proc(5), field 22)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of the program stands in brackets and may hold anything, so the fields are counted from its end.
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(after_name[19])
    return None


def _is_locked(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared test, so that two who look at the same time do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
