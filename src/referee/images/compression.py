"""A layer's blob as a tar stream: decompressed with bounded memory and a limit, digests kept on the way."""

from __future__ import annotations

import hashlib
import zlib
from typing import BinaryIO, Protocol

from referee.images.tar import CHUNK_BYTES, TarError
from referee.units import format_size

_ZSTD_WINDOW_BYTES = 1 << 27  # what `zstd -d` accepts by default; more would be memory for an attacker to take
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Hashed:
    """A file that keeps the digest and the size of what was read from it."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        piece = self._raw.read(size)
        self.sha256.update(piece)
        self.size_bytes += len(piece)
        return piece


class _Gunzip:
    """Gzip with bounded memory; several members in a row are one stream, as RFC 1952 says."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._inflater = zlib.decompressobj(31)
        self._pending = b""
        self._more = False

    def read(self, size: int, /) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        while True:
            if not self._pending and not self._more:
                self._pending = self._source.read(CHUNK_BYTES // 4)
                if not self._pending:
                    if not self._inflater.eof:
                        raise TarError("its gzip stream ends too early")
                    return b""
            if self._inflater.eof:
                self._inflater = zlib.decompressobj(31)
            try:
                piece = self._inflater.decompress(self._pending, size)
            except zlib.error as error:
                raise TarError(f"its gzip stream is broken ({error})") from error
            self._pending = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            self._more = len(piece) == size and not self._inflater.eof
            if piece:
                return piece


def _zstd(source: Source) -> Source:
    """Zstandard with bounded memory. A frame cut short reads as its whole blocks: the layer's `diff_id` tells."""
    import zstandard  # noqa: PLC0415 - only few images have zstd layers, and workers start often

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    reader = decompressor.stream_reader(
        source,  # type: ignore[arg-type]  # its types ask for a whole file; it only ever calls read()
        read_size=CHUNK_BYTES // 4,
        read_across_frames=True,
    )

    class _Guarded:
        def read(self, size: int, /) -> bytes:
            try:
                piece: bytes = reader.read(size)
            except zstandard.ZstdError as error:
                raise TarError(f"its zstd stream is broken ({error})") from error
            return piece

    return _Guarded()


class _Prefixed:
    """A source whose first bytes were looked at."""

    def __init__(self, first: bytes, source: Source) -> None:
        self._first = first
        self._source = source

    def read(self, size: int, /) -> bytes:
        if self._first:
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        return self._source.read(size)


def decompressed(source: Source) -> Source:
    """The tar stream inside `source`: gzip, zstd or plain, told by its first bytes, not by what a manifest claims."""
    first = source.read(4)
    prefixed = _Prefixed(first, source)
    if not is_compressed(first):
        return prefixed
    return _Gunzip(prefixed) if first.startswith(_GZIP_MAGIC) else _zstd(prefixed)


def is_compressed(first: bytes) -> bool:
    """Whether a stream that begins with these four bytes is gzip or zstd (or a skippable frame before zstd)."""
    skippable = first[1:4] == b"\x2a\x4d\x18" and first[0] & 0xF0 == 0x50
    return first.startswith((_GZIP_MAGIC, _ZSTD_MAGIC)) or skippable


class Counted:
    """A stream that gives exactly what is asked for, keeps its digest, and ends at a limit."""

    def __init__(self, source: Source, limit_bytes: int) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size: int, /) -> bytes:
        """Exactly `size` bytes, or fewer at the end.

        Raises:
            TarError: beyond the limit.
        """
        pieces: list[bytes] = []
        missing = size
        while missing and (piece := self._source.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self.size_bytes += len(data)
        if self.size_bytes > self._limit_bytes:
            raise TarError(f"it unpacks to more than the limit of {format_size(self._limit_bytes)}")
        self.sha256.update(data)
        return data
