"""Take one declared file out of a dead sandbox's output folder, trusting nothing about it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from referee.sandbox import kernel

_RESOLVE = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_XDEV | kernel.RESOLVE_NO_MAGICLINKS


_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the declared file was not taken. `missing` means that nothing has its name."""

    kind: Literal["missing", "not_a_file", "linked", "too_large", "unreadable"]
    reason: str


def harvest(folder: Path, name: str, limit_bytes: int) -> bytes | Refusal:
    """The content of the plain file `name` directly in `folder`, or why it is refused.

    Call it only when no process of the sandbox is left. The file is opened once, without following any link and
    without waiting for a writer, and judged by that descriptor.
    """
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = kernel.open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, _RESOLVE)
    except OSError as error:
        return _refused(error)
    finally:
        os.close(directory)
    try:
        return _judge(os.fstat(descriptor), limit_bytes) or _read(descriptor, limit_bytes)
    finally:
        os.close(descriptor)


def _judge(status: os.stat_result, limit_bytes: int) -> Refusal | None:
    if not stat.S_ISREG(status.st_mode):
        return Refusal("not_a_file", "The predictions are not an ordinary file.")
    if status.st_nlink != 1:
        return Refusal("linked", "The predictions file has more than one name (a hard link).")
    if status.st_size > limit_bytes:
        reason = f"The predictions file has {status.st_size} bytes; {limit_bytes} bytes are allowed."
        return Refusal("too_large", reason)
    return None


def _read(descriptor: int, limit_bytes: int) -> bytes | Refusal:
    content = bytearray()
    while part := os.read(descriptor, _PART_BYTES):
        content += part
        if len(content) > limit_bytes:  # it has grown since it was judged
            return Refusal("too_large", f"The predictions file has more than the {limit_bytes} bytes allowed.")
    return bytes(content)


def _refused(error: OSError) -> Refusal:
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Refusal("missing", "There is no predictions file at the agreed path.")
    if error.errno == errno.ELOOP:
        return Refusal("linked", "The predictions file is a symbolic link.")
    if error.errno in {errno.ENXIO, errno.EXDEV, errno.ENODEV, errno.EACCES}:
        return Refusal("not_a_file", "The predictions are not an ordinary file.")
    return Refusal("unreadable", f"The predictions file cannot be read: {error.strerror}.")
