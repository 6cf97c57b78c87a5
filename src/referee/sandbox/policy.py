"""What one sandbox allows, as one typed value from which everything else is generated."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

from referee.challenge import Contract, Limits
from referee.errors import ConfigurationError

Level = Literal["runc", "gvisor"]

# The user and group that `user = "unprivileged"` means, inside the container.
UNPRIVILEGED = 1000

# Log bytes are thrown away once the limit is stored; whoever goes on to write this much is ended.
FLOOD_FLOOR_BYTES = 64 * 2**20
FLOOD_FACTOR = 64

# An inode of tmpfs costs the run about a kibibyte of its memory; honest caches hold larger files than this.
_BYTES_PER_INODE = 2048
_LEAST_INODES = 4096


@dataclass(frozen=True, slots=True)
class SandboxPolicy:
    """What a submission's container may see and use. Sizes are bytes, times are seconds.

    Attributes:
        level: which runtime keeps the promises.
        root_writable: a size-capped overlay over the image, thrown away afterwards; else the root is read-only.
        keep_user: run as the image's own user (inside a user namespace without capabilities) instead of 1000.
        tmp_exec: programs may be run from /tmp.
        output_files: files and folders that may exist in the output folder.
        flood_bytes: the container is ended when it has written this much to its log.
        gpus: names of the devices to be given (CDI names); empty means none.
        gpu_sharing: so many sandboxes may have one of them at once.
        environment: the contract's own variables, which override the image's.
    """

    level: Level
    data: str
    output: str
    predictions: str
    root_writable: bool
    keep_user: bool
    tmp_exec: bool
    environment: tuple[tuple[str, str], ...]
    wall_seconds: float
    cpus: float
    memory_bytes: int
    shm_bytes: int
    scratch_bytes: int
    scratch_files: int
    output_bytes: int
    output_files: int
    log_bytes: int
    flood_bytes: int
    pids: int
    open_files: int
    gpus: tuple[str, ...]
    gpu_sharing: int = 1

    @property
    def digest(self) -> str:
        """Names this policy's content: equal policies have equal digests."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()


def known_level(level: str) -> Level:
    """The isolation level of that name.

    Raises:
        ConfigurationError: if there is none.
    """
    for known in get_args(Level):
        if known == level:
            return cast(Level, known)
    raise ConfigurationError(f"{level!r} is not an isolation level.", hint="Choose `runc` or `gvisor`.")


def sandbox_policy(
    contract: Contract, limits: Limits, wall_time_scale: float = 1.0, level: str = "runc", gpus: tuple[str, ...] = ()
) -> SandboxPolicy:
    """The policy of a contract and its limits on a machine whose wall time is scaled by `wall_time_scale`.

    Raises:
        ConfigurationError: if the level is unknown.
    """
    known = known_level(level)
    return SandboxPolicy(
        level=known,
        data=contract.data,
        output=contract.output,
        predictions=contract.predictions,
        root_writable=contract.rootfs == "scratch",
        keep_user=contract.user == "image",
        tmp_exec=contract.tmp_exec,
        environment=tuple(sorted(contract.environment.items())),
        wall_seconds=limits.wall_time.total_seconds() * wall_time_scale,
        cpus=limits.cpus,
        memory_bytes=limits.memory,
        shm_bytes=limits.shm,
        scratch_bytes=limits.scratch,
        scratch_files=max(_LEAST_INODES, limits.scratch // _BYTES_PER_INODE),
        output_bytes=limits.output,
        output_files=limits.output_files,
        log_bytes=limits.log,
        flood_bytes=max(FLOOD_FLOOR_BYTES, FLOOD_FACTOR * limits.log),
        pids=limits.pids,
        open_files=limits.open_files,
        gpus=gpus,
        gpu_sharing=limits.gpu_sharing,
    )
