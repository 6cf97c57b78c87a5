"""Whether the kernel could execute a program of an image: judged before the start, so that blame is certain.

The kernel says the same only after the runtime has handed over, when it looks like an early exit of the program.
Sources: execve(2), elf(5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

HEAD_BYTES = 4096

_ELF = b"\x7fELF"
_PT_INTERP = 3
_MACHINES = {"amd64": 62, "arm64": 183}
_MOST_INTERPRETERS = 4  # the kernel follows no longer chain of scripts


def why_not_executable(
    path: str, architecture: str, read_head: Callable[[str], bytes | None], depth: int = 0
) -> str | None:
    """Why the kernel would refuse to execute `path`, as the end of a sentence; `None` if it would not.

    Args:
        read_head: the first `HEAD_BYTES` of an executable file of the image; `None` if there is none at a path.
    """
    head = read_head(path)
    if head is None:
        return "does not exist in it or is not an executable file" if depth == 0 else f"needs {path}, which it lacks"
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            return "is a script that names no interpreter"
        interpreter = words[0].decode("utf-8", errors="replace")
        if depth >= _MOST_INTERPRETERS:
            return "is a script behind too many scripts"
        return why_not_executable(interpreter, architecture, read_head, depth + 1)
    if not head.startswith(_ELF):
        return "is neither a Linux program nor a script that begins with #!"
    return _why_not_elf(head, architecture, read_head)


def _why_not_elf(head: bytes, architecture: str, read_head: Callable[[str], bytes | None]) -> str | None:
    if len(head) < 64 or head[4] != 2 or head[5] != 1:
        return f"is not a 64-bit program for {architecture}"
    machine = struct.unpack_from("<H", head, 18)[0]
    if machine != _MACHINES.get(architecture):
        return f"is not a program for {architecture}"
    offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
    for number in range(count):
        start = offset + number * size
        if size < 56 or start + 56 > len(head):
            return None  # headers beyond what was read: left to the kernel
        if struct.unpack_from("<I", head, start)[0] == _PT_INTERP:
            place, length = struct.unpack_from("<Q", head, start + 8)[0], struct.unpack_from("<Q", head, start + 32)[0]
            if length == 0 or place + length > len(head):
                return None
            loader = head[place : place + length].rstrip(b"\0").decode("utf-8", errors="replace")
            return None if read_head(loader) is not None else f"needs the loader {loader}, which the image lacks"
    return None
