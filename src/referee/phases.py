"""The files of a phase, recorded by digest before anything is evaluated on them.

A phase's identity is the digest of its file list (name, size, SHA-256 of every file). Items are named
by their path below the data folder, with `/` between folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from referee.challenge import Challenge, Frozen
from referee.digests import digest_of
from referee.errors import ConfigurationError


class PhaseFile(Frozen):
    """One file of a phase, as recorded when the phase was first used."""

    name: str
    size_bytes: int
    sha256: str


class PhaseData(Frozen):
    """The data of a phase: where it is found on this node's side, and the digest of its file list."""

    location: Path
    digest: str
    files: tuple[PhaseFile, ...]

    @property
    def key(self) -> str:
        """Where this lies in the object store: another key when the same files are found at another place."""
        place = hashlib.sha256(os.fsencode(self.location)).hexdigest()[:8]
        return f"phases/{self.digest.removeprefix('sha256:')}-{place}.json"

    @property
    def names(self) -> tuple[str, ...]:
        """The items to be predicted, in order."""
        return tuple(file.name for file in self.files)


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    path: Path
    size_bytes: int
    mtime_ns: int


def record_phase(
    challenge: Challenge, phase: str, *, on_progress: Callable[[int, int], None] | None = None
) -> PhaseData:
    """Digest every file of a phase; files whose size and time have not changed since the last call are not read again.

    Args:
        challenge: the challenge.
        phase: the phase's name.
        on_progress: called with (bytes read so far, bytes in total).

    Raises:
        ConfigurationError: if the folder is empty, or holds a link, a hidden or special file, or an odd name.
    """
    folder, found = _found(challenge, phase)
    memory = challenge.state_folder / "phases" / f"{phase}.json"
    known = _remembered(memory)
    total = sum(file.size_bytes for file in found)
    done = 0

    def digest(file: _Found) -> str:
        old = known.get(file.name)
        if old is not None and old[:2] == [file.size_bytes, file.mtime_ns]:
            return str(old[2])
        return _sha256(file.path)

    digests: list[str] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for file, value in zip(found, pool.map(digest, found), strict=True):
            digests.append(value)
            done += file.size_bytes
            if on_progress is not None:
                on_progress(done, total)
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(
        json.dumps({f.name: [f.size_bytes, f.mtime_ns, d] for f, d in zip(found, digests, strict=True)}),
        encoding="utf-8",
    )
    files = tuple(
        PhaseFile(name=file.name, size_bytes=file.size_bytes, sha256=value)
        for file, value in zip(found, digests, strict=True)
    )
    return PhaseData(location=folder, digest=file_list_digest(files), files=files)


def phase_names(challenge: Challenge, phase: str) -> tuple[str, ...]:
    """The items of a phase, in order, without reading the files.

    Raises:
        ConfigurationError: as `record_phase`.
    """
    return tuple(file.name for file in _found(challenge, phase)[1])


def file_list_digest(files: tuple[PhaseFile, ...]) -> str:
    """The digest that names a phase's data: SHA-256 over the canonical JSON of names, sizes and digests."""
    return digest_of(file_list_text(files))


def file_list_text(files: tuple[PhaseFile, ...]) -> bytes:
    """The text whose digest names a phase's data: a JSON list of [name, size in bytes, SHA-256]."""
    lines = [[file.name, file.size_bytes, file.sha256] for file in files]
    return json.dumps(lines, ensure_ascii=True, separators=(",", ":")).encode()


def _found(challenge: Challenge, phase: str) -> tuple[Path, list[_Found]]:
    folder = (challenge.folder / challenge.phase(phase).data).resolve()
    found = sorted(_walk(folder, folder), key=lambda file: file.name)
    if not found:
        raise ConfigurationError(
            f"phases.{phase}.data: the folder {folder} is empty.", hint="Put the phase's files there."
        )
    return folder, found


def _walk(root: Path, folder: Path) -> Iterator[_Found]:
    for entry in _entries(folder):
        place = Path(entry.path).relative_to(root).as_posix()
        if entry.name.startswith("."):
            raise ConfigurationError(
                f"{root} holds the hidden file {place!r}, which every submission would see.", hint="Remove it."
            )
        if any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in entry.name):
            raise ConfigurationError(
                f"{root} holds {place!r}, whose name is not text that can be written in a prediction file.",
                hint="Rename it: UTF-8, without control characters.",
            )
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, Path(entry.path))
            continue
        facts = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(facts.st_mode):
            raise ConfigurationError(
                f"{root} holds {place!r}, which is a link or a special file.", hint="Put ordinary files there."
            )
        yield _Found(place, Path(entry.path), facts.st_size, facts.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be read: {error.strerror}.", hint="Check its owner and mode.")


def _remembered(memory: Path) -> dict[str, list[object]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
