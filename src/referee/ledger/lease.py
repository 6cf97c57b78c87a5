"""Who may control: a file lock on this host, which dies with its holder, and an epoch in the chain, which fences.

The lock refuses a second controller at once. Should it ever fail to (a copied folder, a file system that forgets
locks), the later controller has the higher epoch, and the earlier one's next append is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from pathlib import Path

from referee.errors import ConflictError, HostError

FILE_NAME = "controller.lock"


class ControllerLock:
    """An exclusive lock on `path`, held until `release` or the end of this process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, host: str) -> None:
        """Take the lock, or refuse at once.

        Raises:
            ConflictError: naming the process and the host that hold it.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"{self.path} cannot be opened: {error.strerror}.", hint="Check its owner.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise ConflictError(
                f"Another controller is at work on this challenge: {holder}.",
                hint="Wait for it to end, or end it (Ctrl-C); `referee status` shows how far it is.",
            ) from error
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


def _holder(descriptor: int) -> str:
    try:
        facts = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {facts['pid']} on {facts['host']}"
    except (ValueError, KeyError, TypeError):
        return "it has not yet written who it is"


# A flock belongs to the open file, which a forked child shares: without this, workers that outlive a killed
# controller would keep the next one out.
_HELD: weakref.WeakSet[ControllerLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)
