"""Bringing one image from anywhere into an OCI layout of its own, through skopeo, without trusting it.

skopeo is well kept and knows every source, but it unpacks archives into temporary files without a limit and follows
the addresses that a manifest gives for its layers. So what it is handed was looked through before: archives are read
once (sizes, names), layouts are plain files, no manifest names other addresses. It never writes into
the store itself, and it is never asked to give an image a name anywhere: tags inside an archive change nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from referee.errors import HostError, ImageError
from referee.images.compression import Counted, decompressed, is_compressed
from referee.images.layer import plain_path
from referee.images.locks import FileLock
from referee.images.manifest import MAX_JSON_BYTES, Index, Manifest, bounded, read_model, read_small, strict_json
from referee.images.model import NoRoomError, shown
from referee.images.source import ImageSource, Transport
from referee.images.tar import CHUNK_BYTES, Kind, TarEntry, TarError, TarStream
from referee.units import format_size

MAX_ARCHIVE_ENTRIES = 10_000
_BLOB = re.compile(rb"blobs/sha256/[0-9a-f]{64}")
_SQUEEZED = (b"BZh", b"\xfd7z")
_FATAL = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_MAX_INDEXES = 3
# What has no digest of its own yet: its layers are compressed, to save room. Everything else keeps its digest, by which
# its maker knows it.
_UNNAMED = ("docker-archive:", "containers-storage:")
_POLL_SECONDS = 0.05
_NAME_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Room:
    """Where one import works: an empty folder of its own, and the lock that says that it lives.

    Attributes:
        progress: is told how many bytes there are so far.
        stored: where the store has a layer's blob already, by digest.
    """

    folder: Path
    lock: FileLock
    limit_bytes: int
    architecture: str
    progress: Callable[[int], None]
    stored: Callable[[str], Path | None] = lambda _: None

    @property
    def layout(self) -> Path:
        """The OCI layout that results."""
        return self.folder / "layout"


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image in `Room.layout`, with its configuration as the source has it (skopeo drops docker's own keys)."""

    source_configuration: bytes | None


def fetch(source: ImageSource, room: Room) -> Fetched:
    """Copy the image that `source` means into `room.layout`.

    Raises:
        ImageError: there is no such image, or it is refused.
        NoRoomError: the disk is full.
        HostError: skopeo is not installed.
    """
    argument = _argument(source, room)
    options = [] if argument.startswith(_UNNAMED) else ["--dest-oci-accept-uncompressed-layers"]
    _skopeo(["copy", "--quiet", *options, argument, f"oci:{room.layout}:image"], room)
    configuration = None
    if not argument.startswith("oci:"):
        configuration = bounded(_skopeo(["inspect", "--raw", "--config", argument], room), "configuration")
    return Fetched(configuration)


def _argument(source: ImageSource, room: Room) -> str:
    """What skopeo is told. Paths go through a link of ours, as a colon in a path would end it."""
    transport, path, tag = source.transport, source.path, f":{source.reference}" if source.reference else ""
    if transport is Transport.NAME:
        transport = Transport.STORAGE if _is_stored(source.reference) else Transport.REGISTRY
    if transport is Transport.REGISTRY:
        return _pinned(source.reference, room)
    if transport is Transport.STORAGE:
        return f"containers-storage:{source.reference}"
    assert path is not None  # noqa: S101 - every other transport has a path
    if transport is Transport.OCI:
        check_layout(path)
    else:
        path = _plain(path, room)
        transport = _look_through(path, room, transport)
        if transport is Transport.OCI_ARCHIVE:
            path = _extract_layout(path, room)
            check_layout(path)
            transport = Transport.OCI
    link = room.folder / "source"
    link.symlink_to(path)
    return f"{transport}:{link}{tag}"


def _is_stored(name: str) -> bool:
    """Whether podman on this machine has an image of that name."""
    if shutil.which("podman") is None:
        return False
    try:
        done = subprocess.run(
            ["podman", "image", "exists", name], check=False, capture_output=True, timeout=_NAME_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _pinned(name: str, room: Room) -> str:
    """The name by the digest of one image: between two questions a tag can move."""
    for _ in range(_MAX_INDEXES):
        data = bounded(_skopeo(["inspect", "--raw", f"docker://{name}"], room), "manifest")
        head, slash, last = name.partition("@")[0].rpartition("/")
        repository = f"{head}{slash}{last.partition(':')[0]}"
        name = f"{repository}@sha256:{hashlib.sha256(data).hexdigest()}"
        if not _is_index(data):
            _reuse_layers(data, room)
            break
        name = f"{repository}@{_of_this_machine(read_model(Index, data, 'index'), room)}"
    return f"docker://{name}"


def _of_this_machine(index: Index, room: Room) -> str:
    for descriptor in index.manifests:
        platform = descriptor.platform
        if platform is not None and (platform.system, platform.architecture) == ("linux", room.architecture):
            return descriptor.digest
    raise ImageError(
        f"The image has no variant for linux on {room.architecture}.",
        hint=f"Build it with `--platform linux/{room.architecture}`.",
    )


def _reuse_layers(data: bytes, room: Room) -> None:
    """Lay layers that the store has where skopeo looks before it downloads: 4,200 images share their bases.

    For registries only. A local layout that names a layer must have it, or else knowing the digest of another
    team's layer would be enough to run it; whoever pushes to a registry has shown the layer to the registry.
    """
    blobs = room.layout / "blobs" / "sha256"
    blobs.mkdir(mode=0o700, parents=True)
    for layer in read_model(Manifest, data, "manifest").layers:
        found = room.stored(layer.digest)
        if found is not None and not (blobs / found.name).exists():
            os.link(found, blobs / found.name)


def _is_index(data: bytes) -> bool:
    return "manifests" in (value := strict_json(data, "manifest")) and "layers" not in value


def check_layout(path: Path) -> None:
    """An OCI layout that is plain files, and whose manifests fetch nothing from elsewhere.

    Raises:
        ImageError: if it is not.
    """
    blobs = path / "blobs" / "sha256"
    if not blobs.is_dir():
        raise ImageError("The OCI layout has no folder blobs/sha256.", hint="Export the image again.")
    with os.scandir(blobs) as listing:
        for number, found in enumerate(listing):
            if not found.is_file(follow_symlinks=False) or number >= MAX_ARCHIVE_ENTRIES * 10:
                raise ImageError(
                    f"The OCI layout's blob {shown(found.name)} is not a plain file, or there are too many.",
                    hint="Export the image again.",
                )
    if (path / "oci-layout").is_symlink():
        raise ImageError("The OCI layout's file oci-layout is a link.", hint="Export the image again.")
    _check_index(path, read_small(path / "index.json", "index.json"), set(), depth=0)


def _check_index(path: Path, data: bytes, seen: set[str], depth: int) -> None:
    """`seen` are the blobs that were read: 10,000 entries may name one index, and it 10,000 times the next."""
    for descriptor in read_model(Index, data, "index").manifests:
        blob = path / "blobs" / "sha256" / descriptor.digest.removeprefix("sha256:")
        if descriptor.digest in seen or not blob.exists():
            continue  # a layout may leave out other architectures
        seen.add(descriptor.digest)
        inner = read_small(blob, "manifest")
        if _is_index(inner):
            if depth >= _MAX_INDEXES - 1:
                raise ImageError("The OCI layout nests its indexes too deeply.", hint="Export the image again.")
            _check_index(path, inner, seen, depth + 1)
        elif any(layer.urls for layer in read_model(Manifest, inner, "manifest").layers):
            raise ImageError("A manifest names addresses to fetch its layers from.", hint="Export the image whole.")


def _look_through(path: Path, room: Room, transport: Transport) -> Transport:
    """Which kind of archive it is, after every entry and every size inside was looked at."""
    names: set[bytes] = set()
    left_bytes = 2 * room.limit_bytes
    try:
        with path.open("rb") as raw:
            for entry, stream in _entries(raw, room):
                names.add(plain_path(entry.name))
                if entry.kind is Kind.FILE and entry.size_bytes:
                    left_bytes -= _look_inside(stream, min(left_bytes, room.limit_bytes))
    except TarError as error:
        raise _refused(path, error) from error
    if transport is Transport.ARCHIVE:
        if {b"index.json", b"oci-layout"} <= names:
            return Transport.OCI_ARCHIVE
        if b"manifest.json" not in names:
            raise ImageError(
                f"The archive {path} is neither an OCI archive nor a docker archive.",
                hint="Save the image with `podman save` or `docker save`, not with `export`.",
            )
        return Transport.DOCKER_ARCHIVE
    return transport


def _plain(path: Path, room: Room) -> Path:
    """The archive without the compression around it, which skopeo 1.9 does not read."""
    try:
        with path.open("rb") as raw:
            first = raw.read(4)
            raw.seek(0)
            _require_known(first)
            if not is_compressed(first):
                return path
            counted = Counted(decompressed(raw), room.limit_bytes)
            plain = room.folder / "archive"
            with plain.open("wb") as target:
                while piece := counted.read(CHUNK_BYTES):
                    target.write(piece)
            return plain
    except TarError as error:
        raise _refused(path, error) from error


def _require_known(first: bytes) -> None:
    if first.startswith(_SQUEEZED):
        raise TarError("something in it is compressed with bzip2 or xz; gzip, zstd or nothing is accepted")


def _refused(path: Path, error: TarError) -> ImageError:
    return ImageError(f"The archive {path} is refused: {error}.", hint="Save the image again.")


def _entries(raw: BinaryIO, room: Room) -> Iterator[tuple[TarEntry, TarStream]]:
    """The entries of a plain archive. Their contents lie in the file, so its own size bounds them."""
    if os.fstat(raw.fileno()).st_size > 2 * room.limit_bytes:
        raise TarError(f"it is larger than {format_size(2 * room.limit_bytes)}")
    stream = TarStream(raw.read, skip=lambda count: raw.seek(count, os.SEEK_CUR))
    for number, entry in enumerate(stream):
        if number >= MAX_ARCHIVE_ENTRIES:
            raise TarError(f"it has more than {MAX_ARCHIVE_ENTRIES} entries")
        if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE, Kind.FIFO):
            raise TarError(f"the entry {shown(entry.name)} is a device or a FIFO")
        yield entry, stream


class _Content:
    """The content of an archive's entry as something to read from."""

    def __init__(self, stream: TarStream) -> None:
        self._pieces = stream.content()
        self._rest = b""

    def peek(self, size: int) -> bytes:
        """The first bytes, which are read again later. Only before anything else was read."""
        self._rest = next(self._pieces, b"")
        return self._rest[:size]

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def _look_inside(stream: TarStream, limit_bytes: int) -> int:
    """How many bytes a compressed layer inside an archive unpacks to: skopeo unpacks it without a limit."""
    content = _Content(stream)
    first = content.peek(4)
    _require_known(first)
    if not is_compressed(first):
        return 0
    counted = Counted(decompressed(content), limit_bytes)
    while counted.read(CHUNK_BYTES):
        pass
    return counted.size_bytes


def _extract_layout(path: Path, room: Room) -> Path:
    """The layout inside an OCI archive, as plain files; what does not belong to a layout stays behind."""
    layout = room.folder / "unpacked"
    (layout / "blobs" / "sha256").mkdir(mode=0o700, parents=True)
    with path.open("rb") as raw:
        for entry, stream in _entries(raw, room):
            name = plain_path(entry.name)
            if entry.kind is Kind.FILE and (name in (b"index.json", b"oci-layout") or _BLOB.fullmatch(name)):
                with (layout / os.fsdecode(name)).open("wb") as target:
                    for piece in stream.content():
                        target.write(piece)
    return layout


def _skopeo(arguments: Sequence[str], room: Room) -> bytes:
    """Run skopeo with bounded files, killed with us, and give its standard output."""
    if shutil.which("skopeo") is None:
        raise HostError("skopeo is not installed.", hint="Install it: `apt-get install skopeo`.")
    temporary = room.folder / "temporary"
    temporary.mkdir(mode=0o700, exist_ok=True)
    output, errors = room.folder / "skopeo.out", room.folder / "skopeo.err"
    command = [
        *("prlimit", f"--fsize={room.limit_bytes}", "setpriv", "--pdeathsig", "KILL"),
        *("skopeo", "--insecure-policy", "--override-os", "linux", "--override-arch", room.architecture),
        *("--tmpdir", str(temporary), *arguments),
    ]
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=os.environ | {"TMPDIR": str(temporary)},
            pass_fds=[room.lock.fd],  # while skopeo lives, nobody sweeps its folder
        )
        try:
            _watch(process, room)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise _failure(errors.read_bytes()[-8192:].decode("utf-8", "replace"), process.returncode, arguments)
    with output.open("rb") as stream:
        return stream.read(MAX_JSON_BYTES + 1)


def _watch(process: subprocess.Popen[bytes], room: Room) -> None:
    wait = _POLL_SECONDS
    while process.poll() is None:
        time.sleep(wait)
        wait = min(wait * 1.5, 1.0)
        size = _folder_bytes(room.folder)
        room.progress(size)
        if size > 2 * room.limit_bytes:
            raise ImageError(
                f"The image takes more than {format_size(2 * room.limit_bytes)} while it is copied.",
                hint="Build a smaller image.",
            )


def _folder_bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - many files, often
            except FileNotFoundError:
                continue
    return total


def _failure(text: str, status: int, arguments: Sequence[str]) -> ImageError | HostError:
    found = _FATAL.findall(text)
    reason = found[-1].replace('\\"', '"') if found else (text.strip().splitlines() or [f"exit status {status}"])[-1]
    if "no space left on device" in text:
        return NoRoomError("The disk is full: an image could not be imported.", hint="Make room and import again.")
    hint = "Check the name, and that this machine may read it: `skopeo inspect SOURCE` shows the same error."
    if "more than one image" in text:
        hint = "Say which one: add `:TAG` (or `:NAME:TAG` for a docker archive) to the source."
    return ImageError(f"skopeo {arguments[0]} failed: {shown(reason, 400)}.", hint=hint)
