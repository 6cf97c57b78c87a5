"""Who may control: a file lock on this host, which dies with its holder, and an epoch in the chain, which fences.

The lock refuses a second controller at once. Should it ever fail to (a copied folder, a file system that forgets
locks), the later controller has the higher epoch, and the earlier one's next append is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from referee.errors import ConflictError, HostError

FILE_NAME = "controller.lock"

# A child that a killed controller had just forked lets go of the lock within an instant of its first running; on a busy
# machine that instant is worth waiting for. While the holder itself lives nobody waits.
_GRACE_SECONDS = 5.0


class ControllerLock:
    """An exclusive lock on `path`, held until `release` or the end of this process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, host: str) -> None:
        """Take the lock, or refuse at once while its holder lives.

        Raises:
            ConflictError: naming the process and the host that hold it.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"{self.path} cannot be opened: {error.strerror}.", hint="Check its owner.") from error
        deadline = time.monotonic() + _GRACE_SECONDS
        while not _locked(descriptor):
            holder = _holder(descriptor)
            if (holder is not None and _lives(holder.pid)) or time.monotonic() > deadline:
                os.close(descriptor)
                raise ConflictError(
                    f"Another controller is at work on this challenge: {holder or 'it has not yet written who it is'}.",
                    hint="Wait for it to end, or end it (Ctrl-C); `referee status` shows how far it is.",
                )
            time.sleep(0.01)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": host}).encode(), 0)
        self._descriptor = descriptor
        _HELD.add(self)

    def release(self) -> None:
        """Let go; harmless if it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            _HELD.discard(self)
            os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def forget(self) -> None:
        """In a forked child: close the copy of the descriptor, so that the child does not keep the lock alive."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True, slots=True)
class _Holder:
    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> _Holder | None:
    try:
        return _Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The state follows the name, which is in brackets and may hold anything (`proc(5)`).
    return stat.rpartition(") ")[2][:1] not in {"Z", "X"}


# A flock belongs to the open file, which a forked child shares: without this, workers that outlive a killed
# controller would keep the next one out.
_HELD: weakref.WeakSet[ControllerLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)
