"""The image store: blobs by digest, each once, and what is known of every image and layer.

`blobs/sha256/<hex>` are OCI blobs, `images/<hex>.json` is an `ImageRecord`, `layers/<hex>.json` a layer's facts.
Everything is created once under its digest and never changed; a record is written last, so an image either is whole
or is not there. Several processes may import side by side.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ValidationError

from referee.durable import sync_folder
from referee.errors import HostError, ImageError
from referee.images.fetch import Fetched, Room, fetch
from referee.images.layer import MAX_ENTRIES, Layer
from referee.images.lint import host_architecture, ignored, lint_configuration, lint_layers
from referee.images.locks import FileLock, Workplace
from referee.images.manifest import (
    Configuration,
    Descriptor,
    Index,
    Manifest,
    RunConfig,
    read_manifest,
    read_model,
    read_small,
    strict_json,
)
from referee.images.model import ImageLostError, ImageRecord, LayerFacts, NoRoomError, digest_hex
from referee.images.pruning import Pruned, importing, prune
from referee.images.source import ImageSource, parse_source
from referee.images.supply import RECORD_LIMIT_BYTES, blob_key, layer_key, record_key
from referee.objects import AlreadyExistsError, ObjectStore
from referee.units import format_size

DEFAULT_LIMIT_BYTES = 64 * 2**30


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is: `stage` is `copying` or `checking`, with bytes of compressed image done and in total."""

    stage: str
    done_bytes: int
    total_bytes: int | None


def _silent(_: ImportProgress) -> None:
    return None


class ImageStore:
    """All images of a challenge.

    Args:
        objects_folder: root of the object store.
        limit_bytes: the most that one image may unpack to.
        architecture: in the words of the OCI specification; by default this machine's.
        mirror: an object store that every image is put into as well, so that nodes find it there (`supply`).
    """

    def __init__(
        self,
        objects_folder: Path,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        architecture: str | None = None,
        mirror: ObjectStore | None = None,
    ) -> None:
        self._mirror = mirror
        self._root = objects_folder
        self._blobs = objects_folder / "blobs" / "sha256"
        self._images = objects_folder / "images"
        self._layers = objects_folder / "layers"
        self._limit_bytes = limit_bytes
        self._architecture = architecture or host_architecture()
        for folder in (self._blobs, self._images, self._layers):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._imports = Workplace(objects_folder / "imports")

    def records(self) -> list[ImageRecord]:
        """Every image, ordered by digest."""
        return [self._record(path) for path in sorted(self._images.glob("*.json"))]

    def get(self, digest: str) -> ImageRecord:
        """The image with that manifest digest.

        Raises:
            ImageError: if there is none.
        """
        path = self._images / f"{digest_hex(digest)}.json"
        if not path.exists():
            raise ImageError(f"There is no image {digest} in the store.", hint="Import it again.")
        return self._record(path)

    def layer(self, digest: str) -> LayerFacts:
        """The facts of a layer, by the digest of its blob.

        Raises:
            ImageLostError: if there is no such layer.
        """
        facts = self._facts(digest)
        if facts is None:
            raise ImageLostError(f"The layer {digest} is missing from the store.", hint="Import its image again.")
        return facts

    def layers(self, record: ImageRecord) -> tuple[LayerFacts, ...]:
        """The facts of an image's layers, lowest first."""
        return tuple(self.layer(digest) for digest in record.layers)

    def open_blob(self, digest: str) -> BinaryIO:
        """The blob, to be read from its beginning.

        Raises:
            ImageLostError: if it is not there.
        """
        try:
            return self.blob_path(digest).open("rb")
        except FileNotFoundError:
            raise ImageLostError(
                f"The blob {digest} is missing from the store.", hint="Import its image again."
            ) from None

    def blob_path(self, digest: str) -> Path:
        """Where the blob lies on this machine.

        Raises:
            ImageLostError: if it is missing.
        """
        path = self._blobs / digest_hex(digest)
        if not path.is_file():
            raise ImageLostError(f"The blob {digest} is missing from the store.", hint="Import its image again.")
        return path

    def importing(self) -> AbstractContextManager[None]:
        """Keep `prune` away for as long as the context lasts: until what is imported is pinned in the ledger."""
        return importing(self._root)

    def prune(self, pinned: Callable[[], Collection[str]], *, dry_run: bool = False) -> Pruned:
        """Remove what no image that is `pinned` needs (`pruning.prune`). A mirror keeps what it has."""
        return prune(self._root, pinned, dry_run=dry_run)

    def import_image(
        self, source: ImageSource | str, *, progress: Callable[[ImportProgress], None] = _silent
    ) -> ImageRecord:
        """Bring an image into the store and pin it by digest. Importing it again gives the same record.

        Args:
            source: as `parse_source` makes it; a string is relative to the current folder.

        Raises:
            ImageError: the image is refused, or cannot be read.
            ConfigurationError: the source is not one.
            NoRoomError: the disk is full.
            HostError: a program is missing.
        """
        if isinstance(source, str):
            source = parse_source(source, Path.cwd())
        self._imports.sweep()
        with self.importing(), self._disk_errors(), self._imports.room() as (folder, lock):
            record = self._import(source, folder, lock, progress)
        if self._mirror is not None:
            self._bring(record, self._mirror)
        return record

    def _bring(self, record: ImageRecord, mirror: ObjectStore) -> None:
        """Put an image into another store: the record last, which says that all else is there."""
        if mirror.exists(record_key(record.digest)):
            return
        for blob in (*record.layers, record.config_digest, record.digest):
            mirror.put_file(blob_key(blob), self.blob_path(blob))
        for digest in record.layers:
            _put_first(mirror, layer_key(digest), self._layers / f"{digest_hex(digest)}.json")
        _put_first(mirror, record_key(record.digest), self._images / f"{digest_hex(record.digest)}.json")

    def _import(
        self, source: ImageSource, folder: Path, lock: FileLock, progress: Callable[[ImportProgress], None]
    ) -> ImageRecord:
        room = Room(
            folder,
            lock,
            self._limit_bytes,
            self._architecture,
            lambda size: progress(ImportProgress("copying", size, None)),
            self._stored,
        )
        fetched = fetch(source, room)
        layout = _Layout(room.layout)
        manifest_descriptor, manifest = layout.manifest()
        configuration = read_model(Configuration, layout.blob(manifest.config, "configuration"), "configuration")
        config, findings = lint_configuration(configuration, self._architecture)
        layers = self._check_layers(layout, manifest, progress)
        if [layer.diff_id for layer in layers] != configuration.rootfs.diff_ids:
            raise ImageError(
                "The image's configuration lies about the content of its layers.", hint="Export the image again."
            )
        record = ImageRecord(
            digest=manifest_descriptor.digest,
            config_digest=manifest.config.digest,
            architecture=configuration.architecture,
            layers=tuple(layer.digest for layer in layers),
            diff_ids=tuple(configuration.rootfs.diff_ids),
            stored_bytes=sum(layer.stored_bytes for layer in layers),
            unpacked_bytes=sum(layer.unpacked_bytes for layer in layers),
            config=config,
            findings=(*dict.fromkeys((*findings, *_docker_findings(fetched))), *lint_layers(layers)),
        )
        for layer in layers:
            self._keep(layout.path(layer.digest), self._blobs / digest_hex(layer.digest))
            self._write(self._layers / f"{digest_hex(layer.digest)}.json", layer, room)
        for descriptor in (manifest.config, manifest_descriptor):
            self._keep(layout.path(descriptor.digest), self._blobs / digest_hex(descriptor.digest))
        for written in (self._blobs, self._layers):
            sync_folder(written)  # the record comes last: it says that all else is there
        path = self._images / f"{digest_hex(record.digest)}.json"
        self._write(path, record, room)
        sync_folder(self._images)
        return self._record(path)  # an earlier import's record is the one that stays

    def _stored(self, digest: str) -> Path | None:
        path = self._blobs / digest_hex(digest)
        return path if path.is_file() and self._facts(digest) is not None else None

    def _check_layers(
        self, layout: _Layout, manifest: Manifest, progress: Callable[[ImportProgress], None]
    ) -> list[LayerFacts]:
        """One pass over each layer that is not known yet, with the limits counted over the whole image."""
        left_bytes, left_entries = self._limit_bytes, MAX_ENTRIES
        total, done = sum(layer.size_bytes for layer in manifest.layers), 0
        checked: list[LayerFacts] = []
        for number, descriptor in enumerate(manifest.layers, start=1):
            progress(ImportProgress("checking", done, total))
            name = f"layer {number} of {len(manifest.layers)}"
            facts = self._facts(descriptor.digest)
            if facts is None or self._stored(descriptor.digest) is None or facts.stored_bytes != descriptor.size_bytes:
                facts = layout.check_layer(descriptor, name, left_bytes, left_entries)
            left_bytes -= facts.unpacked_bytes
            left_entries -= facts.entries
            if left_bytes < 0 or left_entries < 0:
                raise ImageError(
                    f"The image unpacks to more than {format_size(self._limit_bytes)} or {MAX_ENTRIES} entries.",
                    hint="Build a smaller image.",
                )
            checked.append(facts)
            done += descriptor.size_bytes
        progress(ImportProgress("checking", total, total))
        return checked

    def _facts(self, digest: str) -> LayerFacts | None:
        path = self._layers / f"{digest_hex(digest)}.json"
        try:
            return LayerFacts.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ImageLostError(f"{path} is damaged.", hint="Remove it and import the image again.") from error

    def _record(self, path: Path) -> ImageRecord:
        try:
            return ImageRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ImageLostError(f"{path} is damaged.", hint="Remove it and import the image again.") from error

    def _keep(self, path: Path, target: Path) -> None:
        """Give a checked blob its place, once and for good."""
        if target.exists():
            return
        path.chmod(0o400)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(path, target)

    def _write(self, path: Path, value: BaseModel, room: Room) -> None:
        text = value.model_dump_json(indent=1) + "\n"
        if len(text.encode()) > RECORD_LIMIT_BYTES:
            # A node would refuse to read it, and take that for its own fault.
            raise ImageError(
                "The image has too many files near its root, or names that are too long there.",
                hint="Put many small files into folders that are three names deep, or into one archive.",
            )
        temporary = room.folder / "json"
        temporary.write_text(text, encoding="utf-8")
        self._keep(temporary, path)
        temporary.unlink()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(
                    "The disk is full: an image could not be imported.", hint="Make room and import again."
                ) from error
            raise HostError(f"An image could not be imported: {error}.", hint="Mend that and import again.") from error


def _put_first(mirror: ObjectStore, key: str, path: Path) -> None:
    # What another machine found out about the same bytes may be worded otherwise; its word was first.
    with contextlib.suppress(AlreadyExistsError):
        mirror.put_once(key, path.read_bytes())


class _Layout:
    """The layout that skopeo wrote, read as if skopeo were wrong."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        return self._folder / "blobs" / "sha256" / digest_hex(digest)

    def manifest(self) -> tuple[Descriptor, Manifest]:
        index = read_model(Index, read_small(self._folder / "index.json", "index"), "index")
        if len(index.manifests) != 1:
            raise ImageError("The source holds no image, or more than one.", hint="Say which: add `:TAG` to it.")
        return index.manifests[0], read_manifest(self.blob(index.manifests[0], "manifest"))

    def blob(self, descriptor: Descriptor, what: str) -> bytes:
        data = read_small(self.path(descriptor.digest), what)
        if hashlib.sha256(data).hexdigest() != digest_hex(descriptor.digest) or len(data) != descriptor.size_bytes:
            raise ImageError(f"The image's {what} is not what its digest says.", hint="Export the image again.")
        return data

    def check_layer(self, descriptor: Descriptor, name: str, limit_bytes: int, max_entries: int) -> LayerFacts:
        path = self.path(descriptor.digest)
        if path.is_symlink() or not path.is_file():
            raise ImageError(f"The image's {name} is missing.", hint="Export the image again.")
        with path.open("rb") as raw:
            layer = Layer(raw, limit_bytes=limit_bytes, name=name, max_entries=max_entries)
            for _ in layer:
                pass
        facts = layer.facts()
        if (facts.digest, facts.stored_bytes) != (descriptor.digest, descriptor.size_bytes):
            raise ImageError(f"The image's {name} is not what its digest and size say.", hint="Export the image again.")
        return facts


def _docker_findings(fetched: Fetched) -> tuple[str, ...]:
    """What only the source's own configuration shows: OCI knows no HEALTHCHECK and no ONBUILD."""
    if fetched.source_configuration is None:
        return ()
    run = strict_json(fetched.source_configuration, "configuration").get("config")
    if not isinstance(run, dict):
        return ()
    try:
        return ignored(RunConfig.model_validate(run))
    except ValidationError as error:
        raise ImageError("The image's configuration is not usable.", hint="Build the image again.") from error
