"""The build cache: one folder for each step, named by a hash of everything that went into it."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """Return a short hex digest of texts, bytes, files and folders.

    A `Path` stands for its content: a folder for the names and contents of all files below it, in sorted order.
    """
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(_content(part)).digest())
    return total.hexdigest()[:16]


def _content(part: str | bytes | Path) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode()
    if part.is_file():
        return part.read_bytes()
    inside = hashlib.sha256()
    for file in sorted(part.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            inside.update(str(file.relative_to(part)).encode() + b"\0")
            inside.update(hashlib.sha256(file.read_bytes()).digest())
    return inside.digest()


def cached(cache: Path, step: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of a step, making it first where it is not there yet.

    `make` fills an empty folder; the folder takes its final name only when `make` has returned, so an
    interrupted build never leaves half a step behind under a name that a later build would trust.
    Folders of the same step under other keys are removed.
    """
    final = cache / f"{step}-{key}"
    if final.is_dir():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{step}.making-", dir=cache))
    try:
        make(work)
        work.chmod(0o755)
        for old in cache.glob(f"{step}-????????????????"):
            shutil.rmtree(old, ignore_errors=True)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final
