"""Remove what a killed process left of its sandboxes: their cgroups and folders.

Processes and mounts need no sweep: the kernel takes them with the process. A sandbox is dead when its lock is free; the
runtime that it was just starting may outlive the lock for a moment, and make cgroups.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from pathlib import Path

from referee.sandbox import cgroups, mounts
from referee.sandbox.box import LEAF_NAME, LOCK_NAME, NAMESPACE_NAME

_DEATH_SECONDS = 5.0


def sweep(folder: Path) -> list[Path]:
    """Remove the dead sandboxes whose folders lie anywhere below `folder`; returns those folders.

    Raises:
        OSError: if a cgroup of a dead sandbox would not go.
    """
    removed = []
    for lock in sorted(folder.rglob(LOCK_NAME)):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            record = lock.parent / LEAF_NAME
            if record.is_file():
                remove_leaf(record)
            _remove(lock)
            removed.append(lock.parent)
        finally:
            os.close(descriptor)
    return removed


def _remove(lock: Path) -> None:
    """The folder of a dead sandbox; its lock last, so that a sweep that is killed can be done again."""
    for path in lock.parent.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != lock:
            path.unlink()
    lock.unlink()
    with contextlib.suppress(OSError):  # somebody was quick
        lock.parent.rmdir()


def remove_leaf(record: Path) -> None:
    """End what is left in the cgroups that `record` names and remove them; names that cannot be ours are ignored.

    Raises:
        OSError: if they would not go, or whoever makes them has not ended yet; it can be called again.
    """
    _await_the_end(record.with_name(NAMESPACE_NAME))
    trees = [Path(mount.target) for mount in mounts.read_mounts() if mount.kind in {"cgroup", "cgroup2"}]
    try:
        named = [Path(path) for path in json.loads(record.read_bytes())]
    except (ValueError, TypeError):
        return  # written in part: the worker died before it started anything
    folders = [
        path
        for path in named
        if path.name.startswith(cgroups.PREFIX) and ".." not in path.parts and any(t in path.parents for t in trees)
    ]
    cgroups.kill_folders(folders, _DEATH_SECONDS)
    cgroups.remove_folders(folders, _DEATH_SECONDS)


def _await_the_end(namespace: Path) -> None:
    """Wait until nothing of the pid namespace is left that the dead process was the first of.

    A process that is killed lets go of its files, and so of its lock, before the kernel ends the rest of its namespace
    (do_exit in Linux's kernel/exit.c: exit_files comes before exit_notify).
    """
    try:
        name = namespace.read_text(encoding="ascii")
    except FileNotFoundError:
        return
    if name == str(Path("/proc/self/ns/pid").readlink()):
        return  # it had none of its own
    deadline = time.monotonic() + _DEATH_SECONDS
    while any(_is_in(process, name) for process in Path("/proc").glob("[0-9]*")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Processes of {name} do not end.")
        time.sleep(0.01)


def _is_in(process: Path, namespace: str) -> bool:
    try:
        return str((process / "ns" / "pid").readlink()) == namespace
    except OSError:  # it has ended
        return False
