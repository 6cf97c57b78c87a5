"""Objects in a bucket of S3, or of a service that speaks its language, through obstore."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urlsplit

from referee.errors import ConfigurationError, ObjectStoreError
from referee.objects.errors import ObjectMissingError, missing, too_large

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import ReadableFile
    from obstore.store import ObjectStore as Bucket

_PART_BYTES = 8 << 20
_REQUEST_TIME = timedelta(minutes=5)  # of one request; predictions may be 64 MiB, on a slow line


def bucket_location(url: str, *, region: str | None = None, endpoint: str | None = None) -> str:
    """Everything that a worker elsewhere needs to find a bucket, as one text."""
    options = {"region": region, "endpoint": endpoint}
    query = urlencode({name: value for name, value in options.items() if value is not None})
    return f"{url}?{query}" if query else url


class BucketBackend:
    """Objects in a bucket, through obstore; conditional writes are the service's."""

    def __init__(self, url: str) -> None:
        # obstore starts threads at its first call; a worker forks before that, and most challenges need no bucket.
        import obstore  # noqa: PLC0415 - see above
        from obstore.store import from_url  # noqa: PLC0415 - see above

        self._obstore = obstore
        self._location = url
        try:
            self._bucket: Bucket = from_url(_without_query(url), **_options(url))
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

    def upload(self, key: str, path: Path) -> None:
        with self._translated(key):
            self._obstore.put(self._bucket, key, path, chunk_size=_PART_BYTES, max_concurrency=4)

    def open(self, key: str) -> BinaryIO:
        with self._translated(key):
            file = self._obstore.open_reader(self._bucket, key, buffer_size=_PART_BYTES)
        return io.BufferedReader(_Reader(self, key, file), 1 << 20)

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
        except (self._obstore.exceptions.BaseError, OSError) as error:  # its readers raise plain OSError
            raise ObjectStoreError(
                f"The object store {self._location} failed at {key}: {_first_line(error)}.",
                hint="Check its address, your credentials and the network.",
            ) from error


class _Reader(io.RawIOBase):
    """An object of a bucket, fetched range by range as it is read: however long reading takes, no request does."""

    def __init__(self, bucket: BucketBackend, key: str, file: ReadableFile) -> None:
        self._bucket, self._key, self._file = bucket, key, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        with self._bucket._translated(self._key), memoryview(buffer) as view:
            data = memoryview(self._file.read(view.nbytes))
            view.cast("B")[: data.nbytes] = data
        return data.nbytes


def _without_query(url: str) -> str:
    return urlsplit(url)._replace(query="").geturl() if url.startswith("s3://") else url


def _options(url: str) -> dict[str, Any]:
    """What obstore is told beside the bucket."""
    if not url.startswith("s3://"):
        return {}
    given = dict(parse_qsl(urlsplit(url).query, strict_parsing=True)) if urlsplit(url).query else {}
    unknown = given.keys() - {"region", "endpoint"}
    if unknown:
        raise ValueError(f"there is no option {min(unknown)!r}")
    endpoint = given.get("endpoint", "")
    options: dict[str, Any] = {"client_options": {"timeout": _REQUEST_TIME, "allow_http": endpoint.startswith("http:")}}
    if "region" in given:
        options["region"] = given["region"]
    if endpoint:
        options["endpoint"] = endpoint
    return options


def _first_line(error: Exception) -> str:
    # obstore appends its source's debug form on further lines.
    return str(error).partition("\n")[0].rstrip(".")
