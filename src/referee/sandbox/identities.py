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
import struct
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
def claim_ids(claims: Path) -> Iterator[IdRange]:
    """Hold a range that nobody else on this machine holds. The kernel frees it when this process ends.

    Args:
        claims: the machine's file of claims; byte n is locked by who holds range n (fcntl(2), F_OFD_SETLK).

    Raises:
        HostError: if no range is free.
    """
    descriptor = os.open(claims, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield IdRange(FIRST_HOST_ID + _lock_any(descriptor) * SIZE)
    finally:
        os.close(descriptor)


def _lock_any(descriptor: int) -> int:
    start = random.randrange(RANGES)  # noqa: S311 - spreads claims out; nothing secret hangs on it
    for number in (n % RANGES for n in range(start, start + RANGES)):
        # struct flock: type, whence, start, length, pid, padded as C does.
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            continue
        return number
    raise HostError(
        "No range of user ids is free for a sandbox.", hint="End workers that are still running on this machine."
    )


@contextmanager
def user_namespace(extents: Sequence[tuple[int, int, int]]) -> Iterator[int]:
    """Descriptor of a user namespace that maps (id on disk, id on the host, count), for `attach_clone`.

    Users and groups are mapped alike. A short-lived child makes the namespace; the descriptor keeps it alive.

    Raises:
        HostError: if this machine does not let us make one.
    """
    text = "".join(f"{disk} {host} {count}\n" for disk, host, count in extents)
    try:
        with kernel.sleeper(kernel.NEW_USERS) as child:
            for kind in ("uid_map", "gid_map"):
                Path(f"/proc/{child}/{kind}").write_text(text, encoding="ascii")
            descriptor = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"This machine does not let Referee make a user namespace: {error.strerror}.",
            hint="Set user.max_user_namespaces above 0 (sysctl), and run as root.",
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
