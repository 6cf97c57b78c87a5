"""What a worker leaves: nothing after an orderly end; cgroups and a folder after a kill, which the next one removes."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from referee.errors import ConflictError
from referee.sandbox.box import LEAF_NAME
from referee.sandbox.sweep import remove_leaf
from referee.worker.lock import LOCK_NAME, attempts_on, box_folder, run_folder, take_lock


def clear(node_folder: Path, attempt: str) -> None:
    """Remove everything of an attempt whose processes are gone and whose lock the caller holds.

    The lock's file goes last: as soon as it is gone, somebody else may hold a new one in its place.
    """
    folder = run_folder(node_folder, attempt)
    record = box_folder(folder) / LEAF_NAME
    if record.is_file():
        remove_leaf(record)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_NAME:
            path.unlink()
    (folder / LOCK_NAME).unlink()
    with contextlib.suppress(OSError):  # somebody was quick
        folder.rmdir()


def clear_if_dead(node_folder: Path, attempt: str) -> bool:
    """Remove what is left of the attempt unless its worker lives; returns whether nothing is left."""
    if not run_folder(node_folder, attempt).exists():
        return True
    try:
        lock = take_lock(node_folder, attempt)
    except ConflictError:
        return False
    try:
        clear(node_folder, attempt)
    finally:
        os.close(lock)
    return True


def clear_dead(node_folder: Path) -> list[str]:
    """Remove what workers left that were killed; returns their attempts. Those that live are left alone."""
    return [attempt for attempt in attempts_on(node_folder) if clear_if_dead(node_folder, attempt)]
