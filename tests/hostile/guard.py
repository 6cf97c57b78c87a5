"""A cgroup around each worker: bombs stay small even with the product's limits switched off, and what stays is seen.

It is also the witness that nothing is left: when a worker has ended, its guard must hold no process and no cgroup.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from referee.sandbox import cgroups

GUARD_MEMORY_BYTES = 1200 * 2**20
GUARD_PIDS = 400

_LOOK_SECONDS = 0.05


class Guard:
    """One cgroup of this test for one worker, in every hierarchy.

    Args:
        extra_pids: what the level's runtime is granted above the limits.
    """

    def __init__(self, extra_pids: int = 0) -> None:
        self.least_nice = 19
        self.most_terminals = 0
        self._looked = 0.0
        host = cgroups.give_controllers(cgroups.locate())
        name = f"hostile-{os.getpid()}-{os.urandom(4).hex()}"
        self.folders = [hierarchy.own / name for hierarchy in host.hierarchies]
        for hierarchy, folder in zip(host.hierarchies, self.folders, strict=True):
            folder.mkdir()
            if "cpuset" in hierarchy.controllers and hierarchy.version == 1:
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (folder / file).write_text((hierarchy.own / file).read_text())
            if "memory" in hierarchy.controllers:
                file = "memory.limit_in_bytes" if hierarchy.version == 1 else "memory.max"
                (folder / file).write_text(str(GUARD_MEMORY_BYTES))
            if "pids" in hierarchy.controllers:
                (folder / "pids.max").write_text(str(GUARD_PIDS + extra_pids))

    def enter(self) -> None:
        """Move this process in."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def look(self) -> None:
        """What the host sees while it runs: how nice the processes are, and how many terminals the machine has."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self.most_terminals = max(self.most_terminals, terminals())
        for pid in cgroups.folder_processes(self.folders):
            with contextlib.suppress(OSError):
                self.least_nice = min(self.least_nice, os.getpriority(os.PRIO_PROCESS, pid))

    def left(self) -> list[str]:
        """Processes and cgroups that are still there, after a moment of grace for the kernel's own cleaning up."""
        deadline = time.monotonic() + 0.5
        while True:
            found = [f"process {pid}" for pid in cgroups.folder_processes(self.folders)]
            for folder in self.folders:
                found += [
                    f"cgroup {place}" for place in folder.rglob("referee-*") if place.name != cgroups.WORKERS_LEAF
                ]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def close(self) -> None:
        """End what is left and remove it."""
        for pid in cgroups.folder_processes(self.folders):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cgroups.kill_folders(self.folders, 5)
        cgroups.remove_folders(self.folders, 5)


def terminals() -> int:
    """Pseudo-terminals of the whole machine (devpts, proc(5))."""
    place = Path("/proc/sys/kernel/pty/nr")
    return int(place.read_text(encoding="ascii")) if place.exists() else 0


def host_settings() -> dict[str, str]:
    """Settings of this host that an attack tries to change, and what lies in its (the run's own) IPC namespace."""
    found = {"hostname": os.uname().nodename}
    for name in ("shm", "msg", "sem"):
        lines = Path("/proc/sysvipc", name).read_text(encoding="ascii").splitlines()[1:]
        found[f"ipc {name}"] = ", ".join(line.split()[0] for line in lines)
    for name in (
        "kernel/core_pattern",
        "kernel/modprobe",
        "vm/overcommit_memory",
        "net/ipv4/ip_forward",
        "net/core/somaxconn",
    ):
        place = Path("/proc/sys", name)
        if place.exists():
            found[name] = place.read_text(encoding="utf-8", errors="replace")
    return found
