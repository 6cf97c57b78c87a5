"""The file that a bundle is: an uncompressed tar that can be written in one way only.

Written, it has the same bytes for the same members; read, every header must be the very one that would be written for
its name and size, and every padding byte zero, so that no changed byte is left without consequence. Nothing is
unpacked: members are read from where they lie. There is no compression, so a bundle is as large as what it holds.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from referee.errors import CheckFailedError, ConfigurationError

_BLOCK = 512
_END = bytes(2 * _BLOCK)
_CHUNK_BYTES = 2**20
MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 8**11 - 1  # what eleven octal digits of a ustar header can say
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)?", re.ASCII)
_SIZE_FIELD = re.compile(rb"[0-7]{11}\0")


class BundleError(CheckFailedError):
    """A bundle is not what it says it is; the message names the first thing that is wrong."""


def wrong(what: str, hint: str = "") -> BundleError:
    """The error for something that is wrong with a bundle."""
    return BundleError(what, hint=hint or "Do not rely on this bundle; ask who gave it to you for a sound one.")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive: its content's place and size in bytes."""

    name: str
    offset: int
    size_bytes: int


def header(name: str, size_bytes: int) -> bytes:
    """The one header that a member of this name and size has: owner 0, mode 0644, time 0."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    return info.tobuf(tarfile.USTAR_FORMAT, encoding="ascii")


def write_member(target: IO[bytes], name: str, chunks: Iterator[bytes], size_bytes: int) -> None:
    """Write one member.

    Raises:
        BundleError: if the content has not the size that was announced: it changed while it was read.
    """
    target.write(header(name, size_bytes))
    written = 0
    for chunk in chunks:
        target.write(chunk)
        written += len(chunk)
    if written != size_bytes:
        raise wrong(f"{name} changed while it was written.", "Write the bundle again when nothing else runs.")
    target.write(bytes(-size_bytes % _BLOCK))


def write_end(target: IO[bytes]) -> None:
    """Write the end of the archive."""
    target.write(_END)


class Archive:
    """A bundle's file, opened for reading. Its table of members is read strictly before anything else.

    Raises:
        ConfigurationError: if there is no such file.
        BundleError: if it is not an archive as this module writes it.
    """

    def __init__(self, path: Path) -> None:
        self._file = _opened(path)
        self._digests: dict[str, str] = {}
        try:
            self.members = self._table()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _table(self) -> dict[str, Member]:
        size = os.fstat(self._file.fileno()).st_size
        found: dict[str, Member] = {}
        offset = 0
        while True:
            block = self._at(offset, _BLOCK)
            if block == bytes(_BLOCK):
                break
            member = _member(block, offset)
            if member.name in found:
                raise wrong(f"The bundle holds {member.name} twice.")
            if len(found) >= MAX_MEMBERS:
                raise wrong(f"The bundle holds more than {MAX_MEMBERS} files.")
            offset = member.offset + member.size_bytes
            padding = -member.size_bytes % _BLOCK
            if offset + padding > size:
                raise wrong(f"The bundle ends in the middle of {member.name}.")
            if any(self._at(offset, padding)):
                raise wrong(f"There is something hidden behind {member.name} in the bundle.")
            offset += padding
            found[member.name] = member
        if size != offset + len(_END) or self._at(offset, len(_END)) != _END:
            raise wrong("The bundle's file does not end where its last member does.")
        return found

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        found = self._file.read(size)
        if len(found) != size:
            raise wrong("The bundle's file is cut short, or is no bundle at all.", "Fetch it once more.")
        return found

    def member(self, name: str) -> Member:
        """The member called `name`.

        Raises:
            BundleError: if there is none.
        """
        if name not in self.members:
            raise wrong(f"The bundle lacks {name}.")
        return self.members[name]

    def chunks(self, name: str) -> Iterator[bytes]:
        """A member's content, piece by piece."""
        member = self.member(name)
        place, end = member.offset, member.offset + member.size_bytes
        while place < end:
            chunk = self._at(place, min(_CHUNK_BYTES, end - place))
            place += len(chunk)
            yield chunk

    def read(self, name: str, limit_bytes: int) -> bytes:
        """A member's whole content.

        Raises:
            BundleError: if there is none, or it is larger than `limit_bytes`.
        """
        if self.member(name).size_bytes > limit_bytes:
            raise wrong(f"{name} in the bundle is larger than {limit_bytes} bytes.")
        return b"".join(self.chunks(name))

    def lines(self, name: str, limit_bytes: int) -> Iterator[bytes]:
        """A member's lines, without their ends; each must have one.

        Raises:
            BundleError: if a line is longer than `limit_bytes`, or the last one has no end.
        """
        rest = b""
        number = 0
        for chunk in self.chunks(name):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                number += 1
                yield line
            if len(rest) > limit_bytes:
                raise wrong(f"{name} in the bundle: row {number + 1} is longer than {limit_bytes} bytes.")
        if rest:
            raise wrong(f"{name} in the bundle: row {number + 1} is cut short.")

    def sha256(self, name: str) -> str:
        """SHA-256 of a member's content, as hex digits; it is read for it once."""
        if name not in self._digests:
            digest = hashlib.sha256()
            for chunk in self.chunks(name):
                digest.update(chunk)
            self._digests[name] = digest.hexdigest()
        return self._digests[name]


def _opened(path: Path) -> IO[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not make us wait
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", hint="Give the path of a bundle."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigurationError(f"{path} is not a plain file.", hint="Give the path of a bundle.")
    return os.fdopen(descriptor, "rb")


def _member(block: bytes, offset: int) -> Member:
    raw = block[:100].rstrip(b"\0")
    size_field = block[124:136]
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        name = ""
    if not _NAME.fullmatch(name) or not _SIZE_FIELD.fullmatch(size_field):
        raise wrong(f"At byte {offset} of the bundle there is no header as Referee writes it.", "Is this a bundle?")
    size = int(size_field[:11], 8)
    if block != header(name, size):
        raise wrong(f"The header of {name} in the bundle was changed.")
    return Member(name, offset + _BLOCK, size)
