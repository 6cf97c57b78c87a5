"""The phase's data on this node: shown to be the recorded files before a submission sees them.

Names and sizes are compared for every attempt. All bytes are read once for each boot of the node, and again as soon
as a file's inode or times have changed since; the proof of that lies in the node's folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from referee.errors import RefereeError
from referee.phases import PhaseData, PhaseFile, file_list_digest


class StagingError(RefereeError):
    """The phase's data is not there, or is not what was recorded."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class _Facts:
    size_bytes: int
    identity: tuple[
        int, int, int, int
    ]  # device, inode, modification and change time: the last cannot be set by a program


def stage(phase: PhaseData, node_folder: Path, boot_id: str) -> Path:
    """The folder with the phase's files, verified.

    Args:
        phase: what was recorded when the phase was first used.
        node_folder: where this node remembers what it has read.
        boot_id: of this boot of the machine.

    Raises:
        StagingError: if a file is missing, is one too many, or differs.
    """
    if file_list_digest(phase.files) != phase.digest:
        raise StagingError("The phase's list of files does not have the digest it is named by.", hint="Record it anew.")
    present = dict(_walk(phase.location))
    _compare(phase, present)
    stamp = _stamp(phase.location, present)
    folder = node_folder / "verified"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = phase.digest.removeprefix("sha256:")
    with (folder / f"{name}.lock").open("w") as lock:
        # Whoever comes second waits here for the first to have read everything, instead of reading it as well.
        fcntl.flock(lock, fcntl.LOCK_EX)
        proof = folder / f"{name}.json"
        wanted = {"boot": boot_id, "stamp": stamp}
        if _read(proof) != wanted:
            _read_everything(phase)
            if _stamp(phase.location, dict(_walk(phase.location))) != stamp:
                raise StagingError(f"{phase.location} changed while it was read.", hint="Leave the data alone.")
            aside = proof.with_suffix(".new")
            aside.write_text(json.dumps(wanted), encoding="utf-8")
            aside.replace(proof)
    return phase.location


def _walk(root: Path) -> Iterator[tuple[str, _Facts]]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise StagingError(
                f"The data folder {folder} cannot be read: {error.strerror}.",
                hint="Check that it is there and mounted.",
            ) from error
        for entry in entries:
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(facts.st_mode):
                identity = (facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns)
                yield os.path.relpath(entry.path, root), _Facts(facts.st_size, identity)
            else:
                raise StagingError(
                    f"{entry.path} is a link or a special file.", hint="Put the recorded, ordinary file there."
                )


def _compare(phase: PhaseData, present: dict[str, _Facts]) -> None:
    for file in phase.files:
        facts = present.get(file.name)
        if facts is None:
            raise StagingError(f"{phase.location} lacks {file.name!r}.", hint="Restore the recorded data.")
        if facts.size_bytes != file.size_bytes:
            raise StagingError(
                f"{file.name!r} in {phase.location} has {facts.size_bytes} bytes instead of {file.size_bytes}.",
                hint="Restore the recorded data.",
            )
    if len(present) != len(phase.files):
        extra = min(present.keys() - {file.name for file in phase.files})
        raise StagingError(f"{phase.location} holds {extra!r}, which is not recorded.", hint="Remove it.")


def _stamp(location: Path, present: dict[str, _Facts]) -> str:
    lines = [str(location), *(f"{name}\0{facts.identity}" for name, facts in sorted(present.items()))]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _read_everything(phase: PhaseData) -> None:
    def check(file: PhaseFile) -> None:
        with (phase.location / file.name).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                raise StagingError(
                    f"{file.name!r} in {phase.location} is not the recorded file: its digest differs.",
                    hint="Restore the recorded data.",
                )

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        try:
            for _ in pool.map(check, phase.files):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
