"""Reading a tar stream strictly: bounded memory, no guessing, the first wrong byte is an error.

Python's own `tarfile` is not used on images of strangers. It reads an extension header of whatever size the header
claims into memory, takes a broken header for the end of the archive, and its pax parser had a regular expression
with exponential time (CVE-2024-6232). The format itself is small (POSIX.1-2008 `pax`, and GNU tar's long names), so
this reader holds one block, one bounded extension header and nothing else. Sparse files and multi-volume archives are
refused: no tool that builds images writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

BLOCK_BYTES = 512
CHUNK_BYTES = 1 << 20
MAX_EXTENSION_BYTES = 1 << 20
_MAX_EXTENSIONS = 16
_MAX_NUMBER = 2**62
_OCTAL = re.compile(rb"[0-7]*")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_TIME = re.compile(rb"(-?[0-9]{1,19})(?:\.[0-9]*)?")


class TarError(ValueError):
    """The stream is not a tar archive that this reader accepts; one clause that says why."""


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    HARD_LINK = "hard_link"
    CHARACTER_DEVICE = "character_device"
    BLOCK_DEVICE = "block_device"
    FIFO = "fifo"


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.FOLDER,
    b"6": Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry as the archive states it; nothing about `name` or `link` is trusted yet.

    Attributes:
        size_bytes: of the content that follows; 0 for all kinds but `FILE`.
        mtime: seconds since 1970, as stated.
        attributes: names of the extended attributes that the archive carries for it.
    """

    name: bytes
    kind: Kind
    size_bytes: int
    mode: int
    uid: int
    gid: int
    mtime: int
    link: bytes
    attributes: tuple[bytes, ...] = ()


@dataclass(slots=True)
class _Extension:
    """What pax and GNU headers said about the entry that follows them."""

    values: dict[bytes, bytes] = field(default_factory=dict)

    def number(self, key: bytes, otherwise: int) -> int:
        value = self.values.get(key)
        if value is None:
            return otherwise
        if not _DECIMAL.fullmatch(value) or int(value) > _MAX_NUMBER:
            raise TarError(f"a pax header gives {key.decode()} as {value[:40]!r}, which is not a number")
        return int(value)


class TarStream:
    """The entries of an archive, in order.

    Args:
        read: gives exactly as many bytes as asked for, or fewer at the end of the stream.
        skip: passes over so many bytes, where that is cheaper than reading them (a plain file).
    """

    def __init__(self, read: Callable[[int], bytes], skip: Callable[[int], object] | None = None) -> None:
        self._read = read
        self._skip = skip
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self._next()) is not None:
            yield entry

    def content(self) -> Iterator[bytes]:
        """The content of the current entry in pieces of at most 1 MiB; what is not read is skipped."""
        while self._left:
            piece = self._read(min(self._left, CHUNK_BYTES))
            if not piece:
                raise TarError("the archive ends inside a file")
            self._left -= len(piece)
            yield piece
        if self._padding:
            self._exactly(self._padding)
            self._padding = 0

    def _next(self) -> TarEntry | None:
        extension = _Extension()
        for _ in range(_MAX_EXTENSIONS):
            self._pass_over()
            block = self._read(BLOCK_BYTES)
            if not block or not block.strip(b"\0"):
                return None
            if len(block) != BLOCK_BYTES:
                raise TarError("the archive ends inside a header")
            _verify_checksum(block)
            flag = block[156:157]
            if flag in b"xgLK":
                self._extend(extension, flag, _number(block[124:136], "size"))
                continue
            return self._entry(block, flag, extension)
        raise TarError(f"more than {_MAX_EXTENSIONS} extension headers follow each other")

    def _pass_over(self) -> None:
        if self._skip is not None and self._left:
            self._skip(self._left)
            self._left = 0
        for _piece in self.content():
            pass

    def _extend(self, extension: _Extension, flag: bytes, size: int) -> None:
        if size > MAX_EXTENSION_BYTES:
            raise TarError(f"an extension header claims {size} bytes; {MAX_EXTENSION_BYTES} is the most accepted")
        payload = self._exactly(size)
        self._exactly(-size % BLOCK_BYTES)
        if flag == b"x":
            extension.values.update(_pax_records(payload))
        elif flag == b"g":
            _pax_records(payload)  # global defaults (such as git's comment) are checked and not used
        else:
            extension.values[b"path" if flag == b"L" else b"linkpath"] = payload.split(b"\0", 1)[0]

    def _entry(self, block: bytes, flag: bytes, extension: _Extension) -> TarEntry:
        kind = _KINDS.get(flag)
        if kind is None or any(key.startswith(b"GNU.sparse.") for key in extension.values):
            raise TarError(f"an entry of type {flag!r} is sparse, of several volumes or unknown, which is not accepted")
        name = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
            name = prefix + b"/" + name
        name = extension.values.get(b"path", name)
        if kind is Kind.FILE and name.endswith(b"/"):
            kind = Kind.FOLDER  # archives of before 1988 have no type for folders
        size = extension.number(b"size", _number(block[124:136], "size")) if kind is Kind.FILE else 0
        self._left, self._padding = size, -size % BLOCK_BYTES
        return TarEntry(
            name=name,
            kind=kind,
            size_bytes=size,
            mode=_number(block[100:108], "mode") & 0o7777,
            uid=extension.number(b"uid", _number(block[108:116], "uid")),
            gid=extension.number(b"gid", _number(block[116:124], "gid")),
            mtime=_time(extension.values.get(b"mtime"), block[136:148]),
            link=extension.values.get(b"linkpath", block[157:257].split(b"\0", 1)[0]),
            attributes=tuple(key[13:] for key in extension.values if key.startswith(b"SCHILY.xattr.")),
        )

    def _exactly(self, count: int) -> bytes:
        data = self._read(count) if count else b""
        if len(data) != count:
            raise TarError("the archive ends too early")
        return data


def _verify_checksum(block: bytes) -> None:
    stated = _number(block[148:156], "checksum")
    if stated != sum(block) - sum(block[148:156]) + 8 * 0x20:
        raise TarError("a header's checksum is wrong")


def _number(raw: bytes, what: str) -> int:
    if raw[0] & 0x80:  # GNU tar's base 256, for numbers that octal digits cannot hold
        if raw[0] != 0x80:
            raise TarError(f"a header's {what} is negative")
        value = int.from_bytes(raw[1:], "big")
    else:
        digits = raw.split(b"\0", 1)[0].strip(b" ")
        if not _OCTAL.fullmatch(digits):
            raise TarError(f"a header's {what} is {digits!r}, which is not octal")
        value = int(digits, 8) if digits else 0
    if value > _MAX_NUMBER:
        raise TarError(f"a header's {what} is too large")
    return value


def _time(extended: bytes | None, raw: bytes) -> int:
    if extended is not None:
        match = _TIME.fullmatch(extended)
        if match is None:
            raise TarError(f"a pax header gives mtime as {extended[:40]!r}, which is not a time")
        return int(match[1])
    return 0 if raw[0] == 0xFF else _number(raw, "mtime")  # a negative number: no program needs times before 1970


def _pax_records(payload: bytes) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    place = 0
    while place < len(payload):
        space = payload.find(b" ", place, place + 20)
        if space < 0 or not _DECIMAL.fullmatch(payload[place:space]):
            raise TarError("a pax header is not made of records")
        end = place + int(payload[place:space])
        record = payload[space + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(payload) or not record.endswith(b"\n") or not equals:
            raise TarError("a pax header's record has a wrong length")
        values[key] = value[:-1]
        place = end
    return values
