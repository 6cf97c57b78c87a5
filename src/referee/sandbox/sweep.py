"""Remove what a killed process left of its sandboxes: their cgroups and folders.

Processes and mounts need no sweep: the kernel took them with the process. A sandbox is dead when its lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path

from referee.sandbox import cgroups, mounts
from referee.sandbox.box import LEAF_NAME, LOCK_NAME

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
    """End what is left in the cgroups that `record` names and remove them; names that cannot be ours are ignored."""
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
