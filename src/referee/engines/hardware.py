"""What this machine has for attempts: processors, memory and GPUs that this process may use."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_RESERVE_BYTES = 512 * 2**20  # for the controller, the launcher, workers, and the kernel's own
_RESERVE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, named by its UUID: an index may mean another one after a reboot or inside a container."""

    uuid: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """Processors (by number), memory that attempts may use, and GPUs."""

    cpus: tuple[int, ...]
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()


def this_machine() -> Hardware:
    """What is here now; memory is what is available, or what our cgroup allows, less a reserve."""
    memory_bytes = min([_available_bytes(), *_cgroup_limits()])
    reserve = max(_RESERVE_BYTES, int(memory_bytes * _RESERVE_SHARE))
    return Hardware(tuple(sorted(os.sched_getaffinity(0))), max(0, memory_bytes - reserve), _gpus())


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
    query = ["nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = (line.split(",") for line in answer.splitlines() if line.strip())
    return tuple(Gpu(uuid.strip(), int(mebibytes) * 2**20) for uuid, mebibytes in rows)
