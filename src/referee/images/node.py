"""A node's cache of unpacked layers: each layer once, capped in size, never taken from under an attempt.

`layers/<name>/` is a layer in overlayfs form, `layers.json/<name>` says what it is (written last: a layer without it
does not exist), `locks/<name>` is held shared by everyone who uses the layer and exclusively by whoever makes or
removes it. The name is the first 26 digits of the digest of the layer's tar stream; the whole digest is compared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from referee.boot import boot_id
from referee.challenge import Frozen
from referee.errors import HostError
from referee.images.layer import Layer
from referee.images.locks import FileLock, Workplace, remove_tree
from referee.images.model import ImageLostError, ImageRecord, LayerFacts, NoRoomError, UnpackedImage, digest_hex
from referee.images.supply import Supply
from referee.images.unpack import unpack
from referee.units import format_size

_NAME_DIGITS = 26  # 120 of them and a colon each fit into a page of mount options; the whole digest is compared anyway


class _CachedLayer(Frozen):
    """What is known of a layer on this node.

    After a power failure a file that was never written out can be empty though it is there. So a layer counts only
    within the boot in which it was made; nothing here waits for the disk. (Writing out each layer with syncfs waited
    for the dirty pages of everybody else too: up to ten seconds on a busy machine, against one to unpack it.)
    """

    diff_id: str
    disk_bytes: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class CacheState:
    """How full a node's cache is, in bytes; `layers` is their number."""

    used_bytes: int
    capacity_bytes: int
    layers: int


class NodeImages:
    """The images of a node.

    Args:
        node_folder: this node's own folder, on a local file system, mode 0700.
        store: where images come from.
        capacity_bytes: the most that unpacked layers may take.
    """

    def __init__(self, node_folder: Path, store: Supply, capacity_bytes: int) -> None:
        self._store = store
        self._capacity_bytes = capacity_bytes
        node_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = node_folder / "images"
        root.mkdir(mode=0o700, exist_ok=True)
        root.chmod(0o700)  # layers hold files that belong to the ids of strangers: no other user may reach them
        self._layers = root / "layers"
        self._known = root / "layers.json"
        self._locks = root / "locks"
        for folder in (self._layers, self._known, self._locks):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._workplace = Workplace(root / "unpacking")

    @contextlib.contextmanager
    def acquire(self, digest: str) -> Iterator[UnpackedImage]:
        """The image, unpacked; its layers are kept for as long as the context lasts.

        Raises:
            ImageError: there is no such image, or it cannot be laid out.
            ImageLostError: the store lost or changed it.
            NoRoomError: the disk is full, or what is in use leaves no room below the capacity.
            HostError: this machine cannot hold layers.
        """
        record = self._store.get(digest)
        facts = {layer: self._store.layer(layer) for layer in record.layers}
        self._require_capacity(record, facts)
        self.sweep()
        with contextlib.ExitStack() as held:
            locks = {name: held.enter_context(FileLock(self._locks / name)) for name in self._names(record)}
            for lock in locks.values():
                lock.share()  # first of all: what is here already shall not be evicted for what is not
            missing = [fact for fact in facts.values() if not self._is_present(fact)]
            for fact in missing:
                locks[_name(fact.diff_id)].free()  # nobody waits for a lock while holding one that another waits for
            for fact in missing:
                self._obtain(fact, locks[_name(fact.diff_id)])
            for name in locks:
                os.utime(self._known / name)
            try:
                yield UnpackedImage(record, self._folders(record))
            finally:
                for name in locks:
                    os.utime(self._known / name)

    def state(self) -> CacheState:
        """How full the cache is now."""
        known = self._cached()
        return CacheState(sum(size for _, _, size in known), self._capacity_bytes, len(known))

    def evict(self, wanted_bytes: int) -> int:
        """Remove layers that nobody uses, longest unused first, until `wanted_bytes` are freed; returns the bytes."""
        freed = 0
        for _, name, size in sorted(self._cached()):
            if freed >= wanted_bytes:
                break
            with FileLock(self._locks / name) as lock:
                if lock.try_take() and (self._known / name).exists():
                    self._remove(name)
                    freed += size
        return freed

    def sweep(self) -> None:
        """Remove what dead processes left half made or half removed."""
        self._workplace.sweep()
        for found in self._layers.iterdir():
            if not (self._known / found.name).exists():
                with FileLock(self._locks / found.name) as lock:
                    if lock.try_take() and not (self._known / found.name).exists():
                        remove_tree(found)

    def _folders(self, record: ImageRecord) -> tuple[Path, ...]:
        """Topmost first. overlayfs refuses the same folder twice; of two equal layers the upper one says it all."""
        names = dict.fromkeys(_name(diff) for diff in reversed(record.diff_ids))
        return tuple(self._layers / name for name in names)

    def _require_capacity(self, record: ImageRecord, facts: dict[str, LayerFacts]) -> None:
        needed = sum(fact.disk_bytes for fact in facts.values())
        if needed > self._capacity_bytes:
            raise NoRoomError(
                f"The image {record.digest} takes {format_size(needed)} unpacked, more than the node's whole cache of "
                f"{format_size(self._capacity_bytes)}.",
                hint="Give the cache more room.",
            )

    def _names(self, record: ImageRecord) -> list[str]:
        return list(dict.fromkeys(_name(diff) for diff in record.diff_ids))

    def _is_present(self, facts: LayerFacts) -> bool:
        known = self._read(_name(facts.diff_id))
        if known is not None and known.diff_id != facts.diff_id:
            raise HostError(
                f"Two layers have the same short name {_name(facts.diff_id)}.",
                hint="One of them was made for it: do not run this image.",
            )
        return known is not None and known.boot_id == boot_id()

    def _obtain(self, facts: LayerFacts, lock: FileLock) -> None:
        """Unpack a layer that was missing, and hold its lock shared."""
        while True:
            lock.take()
            if not self._is_present(facts):
                self._unpack(facts)
            lock.share()
            if self._is_present(facts):
                return
            lock.free()

    def _unpack(self, facts: LayerFacts) -> None:
        name = _name(facts.diff_id)
        (self._known / name).unlink(missing_ok=True)  # it may be of an earlier boot
        remove_tree(self._layers / name)  # or a process died between the two renames below
        with self._workplace.room() as (room, _):
            with FileLock(self._locks / "space") as space:
                space.take()
                self._make_room(facts)
                (room / "size").write_text(str(facts.disk_bytes), encoding="ascii")
            tree = room / "layer"
            tree.mkdir(mode=0o700)
            with self._store.open_blob(facts.digest) as raw:
                layer = Layer(raw, limit_bytes=facts.unpacked_bytes, name="layer")
                unpack(layer, tree)
            seen = layer.facts()
            if (seen.digest, seen.diff_id) != (facts.digest, facts.diff_id):
                raise ImageLostError(
                    f"The stored layer {facts.digest} is not what was imported.",
                    hint="The disk or the store changed it: import the image again.",
                )
            tree.rename(self._layers / name)
            known = _CachedLayer(diff_id=facts.diff_id, disk_bytes=facts.disk_bytes, boot_id=boot_id())
            (room / "known").write_text(known.model_dump_json(), encoding="ascii")
            (room / "known").rename(self._known / name)

    def _make_room(self, facts: LayerFacts) -> None:
        """Evict until the layer fits below the capacity and on the disk. The space lock is held."""
        # Before what is there: a layer that arrives between the two counts twice, not never.
        reserved = self._reserved()
        used = reserved + sum(size for _, _, size in self._cached())
        over = used + facts.disk_bytes - self._capacity_bytes
        if over > 0 and self.evict(over) < over:
            raise NoRoomError(
                f"An image layer of {format_size(facts.disk_bytes)} does not fit into the node's cache of "
                f"{format_size(self._capacity_bytes)} beside what is in use.",
                hint="Give the cache more room, or run fewer attempts side by side.",
            )
        free = shutil.disk_usage(self._layers).free
        if free < facts.disk_bytes:
            self.evict(facts.disk_bytes - free)

    def _reserved(self) -> int:
        """What other processes are unpacking now."""
        total = 0
        for found in self._workplace.folder.glob("*/size"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                total += int(found.read_text(encoding="ascii"))
        return total

    def _cached(self) -> list[tuple[float, str, int]]:
        """Time of last use, name and size of every layer here."""
        rows = []
        for found in self._known.iterdir():
            known = self._read(found.name)
            with contextlib.suppress(FileNotFoundError):
                if known is not None:
                    rows.append((found.stat().st_mtime, found.name, known.disk_bytes))
        return rows

    def _read(self, name: str) -> _CachedLayer | None:
        try:
            return _CachedLayer.model_validate_json((self._known / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise HostError(
                f"{self._known / name} is damaged.",
                hint=f"Remove {self._known.parent}: it is a cache and is made again.",
            ) from error

    def _remove(self, name: str) -> None:
        (self._known / name).unlink()
        with self._workplace.room() as (room, _):
            (self._layers / name).rename(room / "layer")


def _name(diff_id: str) -> str:
    return digest_hex(diff_id)[:_NAME_DIGITS]
