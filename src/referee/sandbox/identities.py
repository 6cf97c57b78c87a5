"""Host user ids for one sandbox, and the user namespace by which files are mapped to them.

Inside a sandbox the ids 0 to 65535 exist. On the host they are 65,536 ids of a range that no other sandbox of this
machine uses at the same time, so that neighbours share no uid (keyrings, process counts and signals go by uid).
Ranges start at 2**30 + n * 65536 for n below 16384: above what distributions and `useradd` hand out (/etc/subuid
starts at 100000 and ends far lower) and below 2**31, which some programs read as negative.
"""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from referee.errors import HostError
from referee.sandbox import kernel

SIZE = 65536
FIRST_HOST_ID = 1 << 30
RANGES = 16384


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids 0 to 65535 inside a sandbox are `base` to `base + 65535` on the host."""

    base: int

    def host(self, inside: int) -> int:
        """The host's id for the sandbox's id `inside`."""
        if not 0 <= inside < SIZE:
            raise ValueError(f"{inside} is not an id inside the sandbox")
        return self.base + inside


@contextmanager
def claim_ids(folder: Path) -> Iterator[IdRange]:
    """Hold a range that nobody else on this machine holds. The kernel frees it when this process ends.

    Args:
        folder: where the machine's claims lie (lock files, one for each range ever used).

    Raises:
        HostError: if all ranges are taken.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = random.randrange(RANGES)  # noqa: S311 - spreads claims out; nothing secret hangs on it
    for number in range(start, start + 64):
        descriptor = os.open(folder / str(number % RANGES), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield IdRange(FIRST_HOST_ID + (number % RANGES) * SIZE)
            return
        finally:
            os.close(descriptor)
    raise HostError(
        "No range of user ids is free for a sandbox.", hint="End workers that are still running on this machine."
    )


@contextmanager
def user_namespace(extents: Sequence[tuple[int, int, int]]) -> Iterator[int]:
    """Descriptor of a user namespace that maps (id on disk, id on the host, count), for `attach_clone`.

    Users and groups are mapped alike. A short-lived child makes the namespace; the descriptor keeps it alive.
    """
    descriptor = _namespace("".join(f"{disk} {host} {count}\n" for disk, host, count in extents))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _namespace(text: str) -> int:
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(done_write)
            kernel.unshare(kernel.NEW_USERS)
            os.write(ready_write, b"x")
            os.read(done_read, 1)
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(done_read)
    try:
        if os.read(ready_read, 1) != b"x":
            raise HostError(
                "This machine does not let Referee make a user namespace.",
                hint="Set user.max_user_namespaces above 0 (sysctl), and run as root.",
            )
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(text, encoding="ascii")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_read)
        os.close(done_write)
        os.waitpid(child, 0)
