"""One layer as a checked stream: decompressed with a limit, digests verified, every entry held to the rules.

The same rules run when a layer is imported and when it is unpacked, so that what passed the one passes the other.
A layer is a change set (OCI image specification, layer.md): it is read alone, and nothing in it may lead outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO

from referee.errors import ImageError
from referee.images.compression import Counted, Hashed, decompressed
from referee.images.model import LayerFacts, shown
from referee.images.tar import CHUNK_BYTES, Kind, TarEntry, TarError, TarStream
from referee.units import format_size

MAX_ENTRIES = 1_000_000
MAX_NAMES_BYTES = 256 << 20  # of all paths together: each is kept until the pass has ended
MAX_LINKS = 60_000  # to one file; ext4 holds 65,000, and a node that cannot unpack a layer looks at fault itself
MAX_DEPTH = 256  # names in a path: deeper trees exhaust the programs that must remove them
MAX_ID = 65535  # a sandbox maps the ids 0 to 65535
NOBODY = 65534
_SHALLOW = 3
_EXAMPLES = 5
_PAGE_BYTES = 4096
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
# Without setuid and setgid: the sandbox mounts nosuid anyway, and a host should not hold setuid files of strangers.
_MASK = 0o1777


class Action(StrEnum):
    """What unpacking does with an entry."""

    FOLDER = "folder"
    FILE = "file"
    SYMLINK = "symlink"
    HARD_LINK = "hard_link"
    WHITEOUT = "whiteout"
    OPAQUE = "opaque"
    NOTHING = "nothing"


# Device nodes and FIFOs are not made, and not a reason to refuse: images made from a root file system (debootstrap,
# `docker import`) have them, and the sandbox lays its own /dev over them.
_MADE = {
    Kind.FOLDER: Action.FOLDER,
    Kind.FILE: Action.FILE,
    Kind.SYMLINK: Action.SYMLINK,
    Kind.HARD_LINK: Action.HARD_LINK,
}


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """An entry that passed the rules.

    Attributes:
        path: relative, without `.` or `..`; empty for the layer's root.
        target: of a symbolic link, the text as it stands; of a hard link, a path of this layer.
        uid, gid: 0 to 65535.
    """

    action: Action
    path: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size_bytes: int
    target: bytes


@dataclass(slots=True)
class _Tree:
    """What the layer has so far: for each path, whether it is a folder, another thing, or a whiteout."""

    kinds: dict[bytes, Action] = field(default_factory=lambda: {b"": Action.FOLDER})
    names_bytes: int = 0
    links: dict[bytes, int] = field(default_factory=dict)
    origins: dict[bytes, bytes] = field(default_factory=dict)  # of each hard link, the file that it is one more name of

    def place(self, path: bytes, action: Action) -> int:
        """Put an entry into the tree; how many folders were made on the way to it, which no entry names."""
        made = 0
        self.origins.pop(path, None)
        parent = path
        while parent:
            parent = parent.rpartition(b"/")[0]
            known = self.kinds.get(parent)
            if known is None or known is Action.WHITEOUT:
                made += 1
                self._keep(parent, Action.FOLDER)
            elif known is not Action.FOLDER:
                raise TarError(f"the entry {shown(path)} leads through {shown(parent)}, which is not a folder")
            else:
                break
        before = self.kinds.get(path)
        if before not in (None, Action.WHITEOUT) and (before is Action.FOLDER) != (action is Action.FOLDER):
            if action is Action.WHITEOUT:
                return made
            raise TarError(f"the entry {shown(path)} is a folder in one place and something else in another")
        if action is not Action.WHITEOUT or before is None:
            self._keep(path, action)
        return made

    def _keep(self, path: bytes, action: Action) -> None:
        if path not in self.kinds:
            self.names_bytes += len(path)
            if self.names_bytes > MAX_NAMES_BYTES:
                raise TarError(f"its names take more than {format_size(MAX_NAMES_BYTES)} together")
        self.kinds[path] = action

    def link(self, path: bytes, target: bytes) -> int:
        """Put a hard link into the tree; as `place`."""
        if self.kinds.get(target) not in (Action.FILE, Action.SYMLINK, Action.HARD_LINK):
            raise TarError(f"the hard link {shown(path)} leads to {shown(target)}, no earlier file of the layer")
        origin = self.origins.get(target, target)
        self.links[origin] = self.links.get(origin, 1) + 1
        if self.links[origin] > MAX_LINKS:
            raise TarError(f"more than {MAX_LINKS} hard links lead to {shown(origin)}")
        made = self.place(path, Action.HARD_LINK)
        self.origins[path] = origin
        return made


@dataclass(slots=True)
class _Tally:
    entries: int = 0
    disk_bytes: int = _PAGE_BYTES
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    shallow: dict[str, str] = field(default_factory=dict)

    def notice(self, what: str, path: bytes) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        kept = self.examples.setdefault(what, [])
        if len(kept) < _EXAMPLES:
            kept.append(shown(b"/" + path))

    def place(self, entry: LayerEntry) -> None:
        rounded = -(-entry.size_bytes // _PAGE_BYTES) * _PAGE_BYTES
        self.disk_bytes += rounded + (_PAGE_BYTES if entry.action in (Action.FOLDER, Action.SYMLINK) else 512)
        if entry.action is not Action.NOTHING and entry.path:
            letter = {"folder": "d", "opaque": "o", "whiteout": "w", "symlink": "l"}.get(entry.action, "f")
            self._place_shallow(entry.path.split(b"/"), letter)

    def _place_shallow(self, parts: list[bytes], letter: str) -> None:
        try:
            names = [part.decode() for part in parts[:_SHALLOW]]
        except UnicodeDecodeError:
            return
        for depth in range(1, len(names) + 1):
            path = "/".join(names[:depth])
            new = letter if depth == len(parts) else "d"
            before = self.shallow.get(path)
            if new == "d" and before in ("w", "o"):
                self.shallow[path] = "o"  # a folder beside a whiteout of its name hides what lies below
            elif new == "w" and before is not None:
                self.shallow[path] = "o" if before in ("d", "o") else before
            else:
                self.shallow[path] = new


class Layer:
    """One pass over one layer's blob.

    Iterate to get its entries; after each `FILE`, `content()` gives its bytes. When the iteration has ended, `facts()`
    tells what was seen. `ImageError` says what is wrong with the layer; nothing else comes out of hostile bytes.

    Args:
        raw: the blob, opened.
        limit_bytes: the most that its tar stream may hold.
        name: how to call the layer in errors, such as `layer 3 of 7`.
    """

    def __init__(self, raw: BinaryIO, *, limit_bytes: int, name: str, max_entries: int = MAX_ENTRIES) -> None:
        self._raw = Hashed(raw)
        self._name = name
        self._limit_bytes = limit_bytes
        self._max_entries = max_entries
        self._tree = _Tree()
        self._tally = _Tally()
        self._stream: Counted | None = None
        self._tar: TarStream | None = None

    def __iter__(self) -> Iterator[LayerEntry]:
        try:
            self._stream = Counted(decompressed(self._raw), self._limit_bytes)
            self._tar = TarStream(self._stream.read)
            for entry in self._tar:
                checked = self._check(entry)
                self._tally.place(checked)
                yield checked
            while self._stream.read(CHUNK_BYTES):
                pass  # the digest covers what follows the archive's end too
            while self._raw.read(CHUNK_BYTES):
                pass
        except TarError as error:
            raise self._refused(error) from error

    def content(self) -> Iterator[bytes]:
        """The bytes of the current file."""
        assert self._tar is not None  # noqa: S101 - only called between two entries
        try:
            yield from self._tar.content()
        except TarError as error:
            raise self._refused(error) from error

    def facts(self) -> LayerFacts:
        """What the pass showed; complete after the iteration has ended."""
        assert self._stream is not None  # noqa: S101 - only called after the iteration
        tally = self._tally
        return LayerFacts(
            digest="sha256:" + self._raw.sha256.hexdigest(),
            diff_id="sha256:" + self._stream.sha256.hexdigest(),
            stored_bytes=self._raw.size_bytes,
            unpacked_bytes=self._stream.size_bytes,
            disk_bytes=tally.disk_bytes,
            entries=tally.entries,
            examples={what: tuple(names) for what, names in tally.examples.items()},
            shallow=tally.shallow,
            **tally.counts,
        )

    def _refused(self, error: TarError) -> ImageError:
        return ImageError(f"The image's {self._name} is refused: {error}.", hint="Build the image again and export it.")

    def _check(self, entry: TarEntry) -> LayerEntry:
        path = plain_path(entry.name)
        action, path = _action(entry, path)
        target = b""
        if action is Action.SYMLINK:
            target = entry.link
            if not target or b"\0" in target or len(target) > 4095:
                raise TarError(f"the symbolic link {shown(path)} has no usable target")
        elif action is Action.HARD_LINK:
            target = plain_path(entry.link)
            if target == path:
                raise TarError(f"the hard link {shown(path)} leads to itself")
        if not path and action not in (Action.FOLDER, Action.OPAQUE, Action.NOTHING):
            raise TarError("the layer's root is not a folder")
        self._count(self._place(action, path, target))
        self._notice(entry, path)
        return LayerEntry(
            action=action,
            path=path,
            mode=entry.mode & (_MASK if action is not Action.FOLDER else _MASK | 0o2000),
            uid=entry.uid if entry.uid <= MAX_ID else NOBODY,
            gid=entry.gid if entry.gid <= MAX_ID else NOBODY,
            mtime=min(max(entry.mtime, 0), 2**33),
            size_bytes=entry.size_bytes,
            target=target,
        )

    def _place(self, action: Action, path: bytes, target: bytes) -> int:
        match action:
            case Action.NOTHING:
                return 0
            case Action.HARD_LINK:
                return self._tree.link(path, target)
            case Action.OPAQUE:
                return self._tree.place(path, Action.FOLDER)
            case _:
                return self._tree.place(path, action)

    def _count(self, folders: int) -> None:
        """An entry, and the folders that it implies: they take room and time like those that the archive names."""
        self._tally.entries += 1 + folders
        self._tally.disk_bytes += folders * _PAGE_BYTES
        if self._tally.entries > self._max_entries:
            raise TarError(f"it has more than {self._max_entries} entries")

    def _notice(self, entry: TarEntry, path: bytes) -> None:
        if entry.kind is Kind.FILE and entry.mode & 0o6000:
            self._tally.notice("setuid", path)
        if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE, Kind.FIFO):
            self._tally.notice("special", path)
        if b"security.capability" in entry.attributes:
            self._tally.notice("capabilities", path)
        if max(entry.uid, entry.gid) > MAX_ID:
            self._tally.notice("foreign_ids", path)


def plain_path(name: bytes) -> bytes:
    """An archive's name as a relative path with plain components; the empty path is the root.

    Raises:
        TarError: for an absolute name, `..`, a NUL byte, or names that no file system holds.
    """
    if b"\0" in name:
        raise TarError(f"the name {shown(name)} holds a NUL byte")
    if name.startswith(b"/"):
        raise TarError(f"the name {shown(name)} is absolute")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise TarError(f"the name {shown(name)} leads outside through `..`")
    if len(name) > 4095 or len(parts) > MAX_DEPTH or any(len(part) > 255 for part in parts):
        raise TarError(f"the name {shown(name)} is too long or too deep")
    return b"/".join(parts)


def _action(entry: TarEntry, path: bytes) -> tuple[Action, bytes]:
    folder, _, base = path.rpartition(b"/")
    if b"/" + _WHITEOUT in b"/" + folder:
        raise TarError(f"the entry {shown(path)} lies below a whiteout")
    if base == _OPAQUE:
        return Action.OPAQUE, folder
    if base.startswith(_WHITEOUT + _WHITEOUT):
        return Action.NOTHING, path  # bookkeeping of aufs, which no other file system reads
    if base.startswith(_WHITEOUT):
        hidden = base.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise TarError(f"the whiteout {shown(path)} hides no name")
        return Action.WHITEOUT, folder + b"/" + hidden if folder else hidden
    return _MADE.get(entry.kind, Action.NOTHING), path
