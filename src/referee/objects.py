"""The object store: specifications, claims, results and phase lists, under keys, in a folder or a bucket.

What counts is written once: `put_once` creates or fails, and never replaces. On a folder an object becomes visible
only after its bytes are on the disk, and `put_once` returns only after its name is; obstore's own local store does
neither (it links first and never syncs), so it serves for buckets (`s3://…`), whose service promises both.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from referee.errors import ConfigurationError, ObjectStoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

# Names are our own, never a participant's, so a narrow alphabet costs nothing and closes `..`, hidden files and spaces.
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT}  # network file systems, and kernels before 3.11


class AlreadyExistsError(ObjectStoreError):
    """Another object is already stored under the key, with other bytes. It was not touched."""


class ObjectMissingError(ObjectStoreError):
    """There is no object under the key."""


class ObjectTooLargeError(ObjectStoreError):
    """The object is larger than its reader allows."""


class Backend(Protocol):
    """Where the bytes are. What it is given are checked keys; it raises `OSError` or `ObjectStoreError`."""

    def create(self, key: str, data: bytes) -> bool: ...

    def replace(self, key: str, data: bytes) -> None: ...

    def read(self, key: str, limit_bytes: int | None) -> bytes: ...

    def size(self, key: str) -> int | None: ...

    def keys(self, prefix: str) -> Iterator[str]: ...

    def open(self, key: str) -> BinaryIO: ...


class ObjectStore:
    """Objects under keys such as `results/5f0c…/result.json`.

    Args:
        location: a folder (made when the first object is written), or a URL that obstore knows (`s3://bucket/prefix`,
            `memory:///`).
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        is_url = isinstance(location, str) and "://" in location and not location.startswith("file://")
        self._backend: Backend = (
            _BucketBackend(self.location) if is_url else _FolderBackend(Path(self.location.removeprefix("file://")))
        )

    @classmethod
    def over(cls, backend: Backend, location: str) -> ObjectStore:
        """A store whose bytes somebody else fetches; `location` is what errors call it."""
        store = cls.__new__(cls)
        store.location, store._backend = location, backend
        return store

    @property
    def folder(self) -> Path | None:
        """The folder on this machine that the objects lie in; `None` for a bucket."""
        return self._backend.root if isinstance(self._backend, _FolderBackend) else None

    def put_once(self, key: str, data: bytes) -> bool:
        """Store `data` under `key`, which must be free.

        Returns:
            True if this call created the object; False if it was already there with the same bytes, as after a reply
            that was lost on its way.

        Raises:
            AlreadyExistsError: if other bytes are there. They stay.
            ObjectStoreError: if the store cannot be written.
        """
        with _explained(f"write {_checked(key)}", self.location):
            if self._backend.create(key, data):
                return True
            there = self.get(key, limit_bytes=len(data)) if self._backend.size(key) == len(data) else None
        if there == data:
            return False
        raise AlreadyExistsError(
            f"{key} in {self.location} is already written, with other content ({digest(data)} was refused).",
            hint="The first one counts; nothing was changed.",
        )

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, in place of what may be there. Readers see the old or the new object, whole."""
        with _explained(f"write {_checked(key)}", self.location):
            self._backend.replace(key, data)

    def get(self, key: str, *, limit_bytes: int | None = None) -> bytes:
        """The object under `key`.

        Raises:
            ObjectMissingError: if there is none.
            ObjectTooLargeError: if it has more than `limit_bytes`; it is not read then.
        """
        with _explained(f"read {_checked(key)}", self.location):
            return self._backend.read(key, limit_bytes)

    def open(self, key: str) -> BinaryIO:
        """The object under `key`, to be read in parts.

        Raises:
            ObjectMissingError: if there is none.
        """
        with _explained(f"read {_checked(key)}", self.location):
            return self._backend.open(key)

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        with _explained(f"look for {_checked(key)}", self.location):
            return self._backend.size(key) is not None

    def size(self, key: str) -> int | None:
        """How many bytes the object under `key` has; None if there is none."""
        with _explained(f"look for {_checked(key)}", self.location):
            return self._backend.size(key)

    def list(self, prefix: str = "") -> list[str]:
        """The keys in the folder `prefix` and below, in order; `""` lists all."""
        if prefix:
            _checked(prefix.removesuffix("/"))
        with _explained(f"list {prefix}", self.location):
            return sorted(self._backend.keys(prefix.removesuffix("/")))


def digest(data: bytes) -> str:
    """`sha256:…` of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ObjectStoreError(
            f"{key!r} is not a key of the object store.", hint="Keys are made of A-Z a-z 0-9 . _ - and /."
        )
    return key


@contextlib.contextmanager
def _explained(what: str, location: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = (
            "Make room there."
            if error.errno in {errno.ENOSPC, errno.EDQUOT}
            else "Check that the place is there, mounted, and that you may use it."
        )
        raise ObjectStoreError(f"Cannot {what} in {location}: {error.strerror or error}.", hint=hint) from error


class _FolderBackend:
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


class _BucketBackend:
    """Objects in a bucket, through obstore; conditional writes are the service's."""

    def __init__(self, url: str) -> None:
        # obstore starts threads at its first call; a worker forks before that, and most challenges need no bucket.
        import obstore  # noqa: PLC0415 - see above
        from obstore.store import from_url  # noqa: PLC0415 - see above

        self._obstore = obstore
        self._location = url
        try:
            self._bucket: Bucket = from_url(url)
        except Exception as error:
            raise ConfigurationError(
                f"{url} is not an object store: {_first_line(error)}.", hint="Give a folder or s3://bucket/prefix."
            ) from error

    def create(self, key: str, data: bytes) -> bool:
        with self._translated(key):
            try:
                self._obstore.put(self._bucket, key, data, mode="create")
            except (self._obstore.exceptions.AlreadyExistsError, self._obstore.exceptions.PreconditionError):
                return False
        return True

    def replace(self, key: str, data: bytes) -> None:
        with self._translated(key):
            self._obstore.put(self._bucket, key, data)

    def read(self, key: str, limit_bytes: int | None) -> bytes:
        with self._translated(key):
            answer = self._obstore.get(self._bucket, key)
            if limit_bytes is not None and answer.meta["size"] > limit_bytes:
                raise too_large(key, limit_bytes)
            return bytes(answer.bytes())

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self.read(key, None))

    def size(self, key: str) -> int | None:
        try:
            with self._translated(key):
                return int(self._obstore.head(self._bucket, key)["size"])
        except ObjectMissingError:
            return None

    def keys(self, prefix: str) -> Iterator[str]:
        with self._translated(prefix):
            for page in self._obstore.list(self._bucket, prefix or None):
                for found in page:
                    yield found["path"]

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise missing(key, self._location) from None
        except self._obstore.exceptions.BaseError as error:
            raise ObjectStoreError(
                f"The object store {self._location} failed at {key}: {_first_line(error)}.",
                hint="Check its address, your credentials and the network.",
            ) from error


def missing(key: str, location: str) -> ObjectMissingError:
    """The error of a backend that has nothing under `key`."""
    return ObjectMissingError(
        f"There is no object {key} in {location}.", hint="Check the key, and that it is the right store."
    )


def too_large(key: str, limit_bytes: int) -> ObjectTooLargeError:
    """The error of a backend that was to read more than its reader allows."""
    return ObjectTooLargeError(
        f"{key} is larger than {limit_bytes} bytes.", hint="It was not read; find out who wrote it."
    )


def _first_line(error: Exception) -> str:
    # obstore appends its source's debug form on further lines.
    return str(error).partition("\n")[0].rstrip(".")
