"""`ObjectStore`: what is promised of an object, wherever it lies."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from referee.digests import digest_of
from referee.errors import ConfigurationError, ObjectStoreError
from referee.objects.bucket import BucketBackend
from referee.objects.errors import AlreadyExistsError
from referee.objects.folder import FolderBackend

# Names are our own, never a participant's, so a narrow alphabet costs nothing and closes `..`, hidden files and spaces.
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)


class Backend(Protocol):
    """Where the bytes are. What it is given are checked keys; it raises `OSError` or `ObjectStoreError`."""

    def create(self, key: str, data: bytes) -> bool: ...

    def replace(self, key: str, data: bytes) -> None: ...

    def read(self, key: str, limit_bytes: int | None) -> bytes: ...

    def upload(self, key: str, path: Path) -> None: ...

    def size(self, key: str) -> int | None: ...

    def keys(self, prefix: str) -> Iterator[str]: ...

    def open(self, key: str) -> BinaryIO: ...


class ObjectStore:
    """Objects under keys such as `results/5f0c…/result.json`.

    Args:
        location: a folder (made when the first object is written), or a URL that obstore knows (`s3://bucket/prefix`,
            `memory:///`). Region and endpoint of an S3 service are parameters of it (`bucket_location`); credentials
            are not: they come from the environment or the machine's role.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        is_url = isinstance(location, str) and "://" in location and not location.startswith("file://")
        self._backend: Backend = (
            BucketBackend(self.location) if is_url else FolderBackend(Path(self.location.removeprefix("file://")))
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
        return self._backend.root if isinstance(self._backend, FolderBackend) else None

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
            f"{key} in {self.location} is already written, with other content ({digest_of(data)} was refused).",
            hint="The first one counts; nothing was changed.",
        )

    def put_file(self, key: str, path: Path) -> bool:
        """Store the content of a file under a key that is a digest of it, in parts, whatever its size.

        What lies under such a key is the same content, or is found not to be by who reads it; so no other write is
        shut out, as `put_once` does.

        Returns:
            False if an object of that size was there.
        """
        size_bytes = path.stat().st_size
        with _explained(f"write {_checked(key)}", self.location):
            if self._backend.size(key) == size_bytes:
                return False
            self._backend.upload(key, path)
            if self._backend.size(key) != size_bytes:
                raise ObjectStoreError(f"{key} in {self.location} was not written whole.", hint="Try it again.")
        return True

    def require_create_only(self) -> None:
        """Make sure that the store does not replace what is to be written once; some services know no such writes.

        Raises:
            ConfigurationError: if it does.
        """
        if self.folder is not None:
            return  # the kernel makes no second link of a name
        try:
            for attempt in (b"first", b"second"):
                self.put_once("probes/create-only", attempt)
        except AlreadyExistsError:
            return
        raise ConfigurationError(
            f"{self.location} replaces objects that are to be written once (it ignores If-None-Match).",
            hint="Use a service with conditional writes, such as Amazon S3, or a recent version of this one.",
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
