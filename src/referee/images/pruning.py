"""What lies in an image store and nobody needs: images that no submission is pinned to, and what only they hold.

It comes from imports that were killed, or whose submission was never recorded. Removing it and importing exclude each
other, from the first byte fetched until the submission is in the ledger.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from referee.durable import sync_folder
from referee.errors import ConflictError
from referee.images.locks import FileLock
from referee.images.model import ImageLostError, ImageRecord, digest_hex

_LOCK = "images.lock"
_BLOB = re.compile(r"[0-9a-f]{64}")
_RECORD = re.compile(r"([0-9a-f]{64})\.json")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        images: digests of whole images that no submission is pinned to.
        blobs: how many blobs, of those images or of none.
        size_bytes: what all of it takes on the disk.
        kept: how many images stay.
    """

    images: tuple[str, ...]
    blobs: int
    size_bytes: int
    kept: int


@contextlib.contextmanager
def importing(objects_folder: Path) -> Iterator[None]:
    """Keep everything in the store where it is, whether a record names it yet or not."""
    with FileLock(objects_folder / _LOCK) as lock:
        lock.share()
        yield


def prune(objects_folder: Path, pinned: Callable[[], Collection[str]], *, dry_run: bool = False) -> Pruned:
    """Remove every image that is not pinned, and every blob that no pinned image is made of.

    Args:
        objects_folder: root of the object store.
        pinned: asked for the digests of the images to keep when nothing can be imported any more.
        dry_run: only say what would be removed.

    Raises:
        ConflictError: if something is being imported.
        ImageLostError: if a pinned image's record is damaged: what it needs is not known, and nothing is removed.
    """
    images, layers, blobs = objects_folder / "images", objects_folder / "layers", objects_folder / "blobs" / "sha256"
    with FileLock(objects_folder / _LOCK) as lock:
        if not lock.try_take():
            raise ConflictError("Images are being imported.", hint="Prune when the import has ended.")
        wanted = {digest_hex(digest) for digest in pinned()}
        records = {found[1]: path for path in sorted(images.glob("*")) if (found := _RECORD.fullmatch(path.name))}
        kept = [_record(path) for name, path in records.items() if name in wanted]
        # A pinned image whose record is missing may still be whole but for it: its manifest is kept, too.
        needed = wanted | {digest_hex(blob) for one in kept for blob in (*one.layers, one.config_digest, one.digest)}
        unpinned = [path for name, path in records.items() if name not in wanted]
        facts = [
            path for path in layers.glob("*") if (found := _RECORD.fullmatch(path.name)) and found[1] not in needed
        ]
        unneeded = [path for path in blobs.glob("*") if _BLOB.fullmatch(path.name) and path.name not in needed]
        pruned = Pruned(
            images=tuple(f"sha256:{path.stem}" for path in unpinned),
            blobs=len(unneeded),
            size_bytes=sum(path.lstat().st_size for path in (*unpinned, *facts, *unneeded)),
            kept=len(kept),
        )
        if dry_run:
            return pruned
        # In the reverse of the order in which an import writes: an image either is whole or is not there.
        for paths, folder in ((unpinned, images), (facts, layers), (unneeded, blobs)):
            for path in paths:
                path.unlink()
            sync_folder(folder)
        return pruned


def _record(path: Path) -> ImageRecord:
    try:
        return ImageRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ImageLostError(f"{path} is damaged.", hint="Remove it and import the image again.") from error
