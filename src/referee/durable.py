"""Files that are whole on the disk before their name is."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power failure.

    Raises:
        OSError: as fsync(2) does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_once(path: Path, content: bytes) -> None:
    """Make a file that only this user can read, whole or not at all; if another process was first, its file counts.

    It is written beside its place and then linked, since a link fails where something is.

    Raises:
        OSError: if it cannot be written there.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        draft.unlink()
