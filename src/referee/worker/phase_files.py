"""A phase's files on their way to a node: into the object store by digest, and out of it into the node's cache.

A node holds each phase once, for all attempts, until the room is wanted for another one. Nothing of it is believed
before its digest was seen: files are checked as they come, and once more for each boot (`staging`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from referee.errors import ObjectStoreError
from referee.images.locks import FileLock, Workplace, remove_tree
from referee.images.model import NoRoomError
from referee.objects import ObjectStore
from referee.phases import PhaseData, PhaseFile
from referee.units import format_size
from referee.worker.staging import StagingError

_PIECE_BYTES = 1 << 20
_AT_A_TIME = 4  # enough to hide a network file system's latency, few enough to leave the neighbours their share


def bring(data: PhaseData, objects: ObjectStore) -> int:
    """Put those of the phase's files that are not there yet into the object store; returns how many that were.

    Raises:
        StagingError: if a file is not the recorded one any more.
    """
    # Asked once for all: a phase has tens of thousands of files, and a bucket answers after tens of milliseconds.
    there = set(objects.list("data"))
    lacking = {_key(file): file for file in data.files if _key(file) not in there}

    def store(file: PhaseFile) -> bool:
        content = (data.location / file.name).read_bytes()
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise StagingError(f"{file.name!r} in {data.location} changed.", hint="Leave the data alone; run again.")
        return objects.put_once(_key(file), content)

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        try:
            return sum(pool.map(store, lacking.values()))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class NodeData:
    """The phases that lie on this node.

    Args:
        node_folder: this node's own folder.
        objects: where the files come from.
        capacity_bytes: the most that all phases together may take.
    """

    def __init__(self, node_folder: Path, objects: ObjectStore, capacity_bytes: int) -> None:
        self._objects = objects
        self._capacity_bytes = capacity_bytes
        self._root = node_folder / "data"
        self._phases = self._root / "phases"
        self._phases.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.chmod(0o700)
        self._workplace = Workplace(self._root / "fetching")

    @contextlib.contextmanager
    def acquire(self, data: PhaseData) -> Iterator[PhaseData]:
        """The phase with its files on this node, kept for as long as the context lasts.

        Raises:
            StagingError: if a file is missing or is not the recorded one.
            NoRoomError: if the phase does not fit.
        """
        name = data.digest.removeprefix("sha256:")
        if not name.isalnum():
            raise StagingError("The phase has no proper digest.", hint="Record it anew.")
        place = self._phases / name
        with FileLock(self._root / "locks" / name) as lock:
            lock.share()
            while not place.is_dir():
                lock.free()
                lock.take()
                if not place.is_dir():
                    self._fetch(data, place)
                lock.share()  # whoever evicts may come between: then it is fetched once more
            os.utime(place)
            yield data.model_copy(update={"location": place})

    def _fetch(self, data: PhaseData, place: Path) -> None:
        for file in data.files:
            _require_plain(file.name)
        self._workplace.sweep()
        wanted = sum(file.size_bytes for file in data.files)
        with FileLock(self._root / "locks" / "space") as space, self._workplace.room() as (room, _):
            # One phase at a time: two that arrive together could each find the room that there is for one.
            space.take()
            self._make_room(wanted)
            tree = room / "files"
            tree.mkdir()
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                try:
                    for _ in pool.map(lambda file: self._copy(file, tree / file.name), data.files):
                        pass
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            tree.rename(place)

    def _copy(self, file: PhaseFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        seen, left = hashlib.sha256(), file.size_bytes
        try:
            with self._objects.open(_key(file)) as source, target.open("xb") as copy:
                while part := source.read(min(_PIECE_BYTES, left + 1)):
                    left -= len(part)
                    if left < 0:
                        break
                    seen.update(part)
                    copy.write(part)
        except ObjectStoreError as error:
            raise StagingError(f"The phase's file {file.name!r} cannot be had: {error}", hint=error.hint) from error
        if left or seen.hexdigest() != file.sha256:
            raise StagingError(
                f"The object store's {file.name!r} is not the recorded file.", hint="Find out who changed it."
            )

    def _make_room(self, wanted_bytes: int) -> None:
        if wanted_bytes > self._capacity_bytes:
            raise NoRoomError(
                f"The phase takes {format_size(wanted_bytes)}, more than the {format_size(self._capacity_bytes)} that "
                "this node keeps for data.",
                hint="Give it more room.",
            )
        used = {place: _size(place) for place in self._phases.iterdir()}
        for place in sorted(used, key=lambda place: place.stat().st_mtime):
            if sum(used.values()) + wanted_bytes <= self._capacity_bytes and self._is_free(wanted_bytes):
                return
            with FileLock(self._root / "locks" / place.name) as lock:
                if lock.try_take():
                    with self._workplace.room() as (room, _):
                        place.rename(room / "gone")
                    used.pop(place)
        if sum(used.values()) + wanted_bytes > self._capacity_bytes or not self._is_free(wanted_bytes):
            raise NoRoomError(
                f"There is no room for {format_size(wanted_bytes)} of data beside the phases that are in use.",
                hint="Wait for their attempts, or give this node more room.",
            )

    def _is_free(self, wanted_bytes: int) -> bool:
        return shutil.disk_usage(self._root).free > wanted_bytes

    def clear(self) -> None:
        """Remove every phase that nobody uses."""
        for place in list(self._phases.iterdir()):
            with FileLock(self._root / "locks" / place.name) as lock:
                if lock.try_take():
                    remove_tree(place)


def _key(file: PhaseFile) -> str:
    return f"data/{file.sha256}"


def _size(place: Path) -> int:
    return sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir())


def _require_plain(name: str) -> None:
    """A list of files is an operator's word, and the worker is root: no name may lead out of the folder."""
    parts = PurePosixPath(name)
    if not parts.parts or parts.is_absolute() or str(parts) != name or "\0" in name or {"..", "."} & set(parts.parts):
        raise StagingError(f"{name!r} is not the name of a file of a phase.", hint="Record the phase anew.")
