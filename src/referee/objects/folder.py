"""Objects as files of a folder, which count once they are on the disk, under their name."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from referee.objects.errors import missing, too_large

_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}  # network file systems, and kernels before 3.11
_PART_BYTES = 8 << 20


class FolderBackend:
    """Objects as files: written aside without a name, synced, then linked to their name, which is synced as well."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def create(self, key: str, data: bytes) -> bool:
        path = self.root / key
        _make_folder(path.parent)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                _link_new_file(folder, path.name, data)
            except FileExistsError:
                # The writer who was first may have died between its link and its sync.
                os.fsync(folder)
                return False
            os.fsync(folder)
        finally:
            os.close(folder)
        return True

    def replace(self, key: str, data: bytes) -> None:
        path = self.root / key
        _make_folder(path.parent)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        aside = f".{path.name}.{secrets.token_hex(8)}"
        try:
            _write_named(folder, aside, data)
            os.replace(aside, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=folder)
            raise
        finally:
            os.close(folder)

    def upload(self, key: str, path: Path) -> None:
        place = self.root / key
        _make_folder(place.parent)
        folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        aside = f".{place.name}.{secrets.token_hex(8)}"
        try:
            file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            with path.open("rb") as source, os.fdopen(file, "wb") as copy:
                shutil.copyfileobj(source, copy, _PART_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
            os.replace(aside, place.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=folder)
            raise
        finally:
            os.close(folder)

    def read(self, key: str, limit_bytes: int | None) -> bytes:
        try:
            file = (self.root / key).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise missing(key, str(self.root)) from None
        with file:
            if limit_bytes is None:
                return file.read()
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise too_large(key, limit_bytes)
        return data

    def open(self, key: str) -> BinaryIO:
        try:
            return (self.root / key).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise missing(key, str(self.root)) from None

    def size(self, key: str) -> int | None:
        try:
            facts = (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return facts.st_size if stat.S_ISREG(facts.st_mode) else None

    def keys(self, prefix: str) -> Iterator[str]:
        waiting = [self.root / prefix]
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    yield Path(entry.path).relative_to(self.root).as_posix()


def _link_new_file(folder: int, name: str, data: bytes) -> None:
    try:
        file = os.open(".", os.O_WRONLY | os.O_TMPFILE, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
        _link_named_file(folder, name, data)
        return
    try:
        _write_all(file, data)
        # With a folder descriptor Python calls linkat() and follows, as open(2) shows for files without a name.
        os.link(f"/proc/self/fd/{file}", name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(file)


def _link_named_file(folder: int, name: str, data: bytes) -> None:
    aside = f".{name}.{secrets.token_hex(8)}"
    try:
        _write_named(folder, aside, data)
        os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=folder)


def _write_named(folder: int, name: str, data: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        _write_all(file, data)
    finally:
        os.close(file)


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)


def _make_folder(folder: Path) -> None:
    """Make `folder` and those above it, each with its name on the disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(above)
    finally:
        os.close(above)
