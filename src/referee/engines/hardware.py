"""What this machine has for attempts: processors, memory and GPUs that this process may use."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from referee.errors import UnsafeHostError
from referee.sandbox import cdi
from referee.sandbox.cdi import gpu_devices
from referee.sandbox.gpus import resolve_gpus

_RESERVE_BYTES = 512 * 2**20  # for the controller, the launcher, workers, and the kernel's own
_RESERVE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, named by its UUID: an index may mean another one after a reboot or inside a container.

    Where no driver tells UUIDs, the name is the one that the machine's CDI specification gives it; memory is 0 where
    it is not known.
    """

    uuid: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """What attempts may use.

    Attributes:
        cpus: processors, by number.
        memory_bytes: all memory but a reserve; the same each time, so that what fits today fits after a restart.
        gpus: in the order of their indices.
        others_bytes: memory that is in use now, by whatever runs here, our own workers among it.
    """

    cpus: tuple[int, ...]
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    others_bytes: int = 0


def this_machine() -> Hardware:
    """What is here: memory is what the machine has, or what our cgroup allows, less a reserve."""
    memory = _memory()
    total = min([memory["MemTotal"], *_cgroup_limits()])
    reserve = max(_RESERVE_BYTES, int(total * _RESERVE_SHARE))
    others = max(0, memory["MemTotal"] - memory["MemAvailable"] - reserve)
    return Hardware(tuple(sorted(os.sched_getaffinity(0))), max(0, total - reserve), _gpus(), others)


def _memory() -> dict[str, int]:
    """/proc/meminfo in bytes (proc(5))."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _cgroup_limits() -> list[int]:
    """The memory limits of our cgroup and those above it, for both versions (cgroups(7))."""
    limits = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = root / place.lstrip("/")
        for group in (folder, *folder.parents):
            with contextlib.suppress(OSError, ValueError):
                limits.append(int((group / name).read_text(encoding="ascii")))
            if group == root:
                break
    return limits


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that a sandbox on this machine can be given. One that it cannot give would fail every attempt."""
    try:
        return tuple(gpu for gpu in _driver_gpus() or _described_gpus() if _can_be_given(gpu))
    except UnsafeHostError:  # a specification that cannot be read: `doctor` says which
        return ()


def _can_be_given(gpu: Gpu) -> bool:
    try:
        resolve_gpus([gpu.uuid])
    except UnsafeHostError:
        return False
    return True


def _described_gpus() -> tuple[Gpu, ...]:
    return tuple(Gpu(device.qualified_name, 0) for device in gpu_devices(cdi.FOLDERS))


def _driver_gpus() -> tuple[Gpu, ...]:
    query = ["nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = (line.split(",") for line in answer.splitlines() if line.strip())
    return tuple(Gpu(uuid.strip(), int(mebibytes) * 2**20) for uuid, mebibytes in rows)
