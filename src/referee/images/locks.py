"""Locks between processes: `flock` on files that are never removed, so that a path always means one lock.

The kernel frees them when a process dies, however it dies; so what a dead process left can be told from what a living
one is making.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from referee.errors import HostError


class FileLock:
    """One open lock file. Closing it frees the lock."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def share(self) -> None:
        """Wait until nobody holds it exclusively. Changing an exclusive lock into a shared one is not atomic."""
        fcntl.flock(self.fd, fcntl.LOCK_SH)

    def take(self) -> None:
        """Wait until nobody else holds it."""
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def try_take(self) -> bool:
        """Whether nobody else held it, and it is ours now."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def free(self) -> None:
        """Let go of it and keep the file open."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Workplace:
    """Temporary folders that belong to living processes; those of dead ones are swept.

    Each is a folder `<name>` with a lock file `<name>.lock` beside it, held for as long as its maker lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def room(self) -> Iterator[tuple[Path, FileLock]]:
        """A new empty folder (mode 0700) and its held lock; both are gone afterwards."""
        name = secrets.token_hex(8)
        while True:
            lock = FileLock(self.folder / f"{name}.lock")
            if lock.try_take() and (self.folder / f"{name}.lock").exists():
                break
            lock.close()  # a sweep took the file between its making and its locking
        path = self.folder / name
        try:
            path.mkdir(mode=0o700)
            yield path, lock
        finally:
            remove_tree(path)
            (self.folder / f"{name}.lock").unlink(missing_ok=True)
            lock.close()

    def sweep(self) -> int:
        """Remove what dead processes left; how many folders that were."""
        swept = 0
        for found in sorted(self.folder.glob("*.lock")):
            with FileLock(found) as lock:
                if not lock.try_take():
                    continue
                path = found.with_suffix("")
                swept += path.exists()
                remove_tree(path)
                found.unlink(missing_ok=True)
        return swept


def remove_tree(path: Path) -> None:
    """Remove a folder of untrusted content without following links; nothing happens if it is not there.

    Raises:
        HostError: if something of it cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        if path.exists():
            remove_tree(path)  # another process was removing it too
    except OSError as error:
        raise HostError(f"{path} could not be removed: {error.strerror}.", hint="Remove it by hand.") from error
