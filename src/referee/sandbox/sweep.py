"""Remove what dead workers left on a node: their sandboxes' cgroups and the attempts' folders.

Processes and mounts need no sweep: the kernel took them with the worker. An attempt is dead when no lock in its
folder is held; a folder without any lock is left alone until it is old, because its worker may just have made it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from referee.sandbox import cgroups, mounts
from referee.sandbox.box import LEAF_NAME

_LOCK_NAMES = ("lock", "box.lock")
_OLD_SECONDS = 3600.0
_DEATH_SECONDS = 5.0


def sweep(node_folder: Path) -> list[str]:
    """Clean up after dead workers below `node_folder/run`; returns the names of the attempts that were removed.

    Raises:
        OSError: if a cgroup or folder of a dead attempt would not go.
    """
    run = node_folder / "run"
    if not run.is_dir():
        return []
    removed = []
    for folder in sorted(path for path in run.iterdir() if path.is_dir() and not path.is_symlink()):
        with ExitStack() as held:
            if _is_dead(folder, held):
                _remove(folder)
                removed.append(folder.name)
    return removed


def _is_dead(folder: Path, held: ExitStack) -> bool:
    locks = [path for place in (folder, *_folders_in(folder)) for path in _locks_in(place)]
    if not locks:
        return time.time() - folder.stat().st_mtime > _OLD_SECONDS
    for path in locks:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]


def _locks_in(folder: Path) -> list[Path]:
    return [folder / name for name in _LOCK_NAMES if (folder / name).is_file()]


def _remove(folder: Path) -> None:
    for record in (folder / LEAF_NAME, *(place / LEAF_NAME for place in _folders_in(folder))):
        if record.is_file():
            remove_leaf(record)
    shutil.rmtree(folder)


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
