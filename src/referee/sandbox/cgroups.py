"""The control groups of one sandbox: below the worker's own, on version 1, version 2, and hybrids of both.

A sandbox has one leaf. On version 1 that is a folder in every hierarchy, each below the worker's own place in that
hierarchy (they differ); on version 2 it is one folder. The kernel's counters in the leaf are where verdicts come
from, so the leaf stays until they were read. Sources: cgroups(7), Documentation/admin-guide/cgroup-v1/memory.rst,
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from referee.errors import UnsafeHostError
from referee.sandbox.mounts import Mount, read_mounts

PREFIX = "referee-"
NEEDED = ("memory", "cpu", "pids")

# The leaf that holds the worker itself on version 2, where a group with processes of its own cannot limit its children.
WORKERS_LEAF = "referee-workers"

_SOCKET_LIMIT = "memory.kmem.tcp.limit_in_bytes"
_SHARE_OF_SOCKETS = 8  # of the memory limit, and beside it

# Counters are charged in batches of pages on each CPU, so that a group at its limit may read a little below it.
_CHARGE_BATCH_BYTES = 64 * 4096


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy and this process's own place in it."""

    controllers: frozenset[str]
    mountpoint: Path
    own: Path
    version: int


@dataclass(frozen=True, slots=True)
class CgroupHost:
    """Where this process stands. `version` is the one that holds the memory controller."""

    version: int
    hierarchies: tuple[Hierarchy, ...]

    @property
    def mode(self) -> str:
        """`v1`, `hybrid` (a version 2 tree beside, without the memory controller) or `v2`."""
        if self.version == 2:
            return "v2"
        return "hybrid" if any(h.version == 2 for h in self.hierarchies) else "v1"

    def of(self, controller: str) -> Hierarchy | None:
        """The hierarchy that holds `controller`."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy
        return None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel counted in a leaf.

    `oom_kills` are kills because the leaf's own limit was reached; `cpu_throttled` is the number of periods in which
    it was held back at its share of the processors.
    """

    oom_kills: int
    host_oom_kills: int
    peak_memory_bytes: int
    cpu_seconds: float
    cpu_throttled: int
    pids_peak: int | None
    pids_refused: int


def locate(process: Path = Path("/proc/self"), seen_from: Path | None = None) -> CgroupHost:
    """Find this process's place in every mounted hierarchy.

    Args:
        process: whose place.
        seen_from: whose mounts are believed, where `process` could have made its own.

    Raises:
        UnsafeHostError: if memory, cpu or pids cannot be limited here.
    """
    believed = read_mounts((seen_from or process) / "mountinfo")
    mounts = [mount for mount in believed if mount.kind in {"cgroup", "cgroup2"}]
    hierarchies = []
    for line in (process / "cgroup").read_text(encoding="utf-8").splitlines():
        _, names, place = line.split(":", 2)
        hierarchy = _hierarchy(names, place, mounts)
        if hierarchy is not None:
            hierarchies.append(hierarchy)
    host = CgroupHost(version=_version(hierarchies), hierarchies=tuple(hierarchies))
    missing = [name for name in NEEDED if host.of(name) is None]
    if missing:
        raise UnsafeHostError(
            f"This machine cannot limit {', '.join(missing)}: the cgroup controllers are not available here.",
            hint="On cgroup v2 delegate them (systemd: Delegate=yes); on v1 mount them and run as root.",
        )
    return host


def _hierarchy(names: str, place: str, mounts: Sequence[Mount]) -> Hierarchy | None:
    wanted = set(names.split(",")) if names else set()
    for mount in mounts:
        if (mount.kind == "cgroup2") != (not names):
            continue
        if names and not wanted <= set(mount.super_options.split(",")):
            continue
        # Inside a cgroup namespace or a container the mount may show a part of the tree: its root.
        within = PurePosixPath(place).is_relative_to(mount.root)
        relative = os.path.relpath(place, mount.root) if within else place.lstrip("/")
        own = Path(os.path.normpath(Path(mount.target) / relative))
        if not names and not own.is_dir():
            continue  # another part of the tree, mounted here: perhaps another mount shows ours
        controllers = wanted or set((own / "cgroup.controllers").read_text(encoding="ascii").split())
        return Hierarchy(frozenset(controllers), Path(mount.target), own, 1 if names else 2)
    return None


def _version(hierarchies: Sequence[Hierarchy]) -> int:
    return max((h.version for h in hierarchies if "memory" in h.controllers), default=1)


def give_controllers(host: CgroupHost) -> CgroupHost:
    """On version 2, make the worker's own group able to hold limited children, and say where it stands afterwards.

    A group with processes cannot pass controllers on (the root can), so every process of it moves into a leaf beside
    the sandboxes. On version 1 nothing is needed.

    Raises:
        UnsafeHostError: if the group is not delegated to us.
    """
    hierarchy = host.of("memory")
    if host.version == 1 or hierarchy is None:
        return host
    parent = hierarchy.own.parent if hierarchy.own.name == WORKERS_LEAF else hierarchy.own
    there = CgroupHost(2, (Hierarchy(hierarchy.controllers, hierarchy.mountpoint, parent, 2),))
    try:
        for _ in range(20):
            if set(NEEDED) <= set((parent / "cgroup.subtree_control").read_text(encoding="ascii").split()):
                return there
            if _pass_on(parent):
                return there
    except OSError as error:
        raise UnsafeHostError(
            f"The cgroup of this worker cannot hold limited children: {error.strerror}.",
            hint="Start Referee in a delegated cgroup, such as `systemd-run --scope -p Delegate=yes referee run`.",
        ) from error
    raise UnsafeHostError(
        "Other processes stay in the worker's cgroup, or keep entering it, so that limits cannot be set below it.",
        hint="Start Referee in a cgroup of its own, such as `systemd-run --scope -p Delegate=yes referee run`.",
    )


def make_room() -> None:
    """`give_controllers` for a process that is about to make a pid namespace: from within, others cannot be moved.

    Where it fails, the sandbox that is opened within meets the same and says so.
    """
    with contextlib.suppress(UnsafeHostError, OSError):
        give_controllers(locate())


def _pass_on(parent: Path) -> bool:
    control = parent / "cgroup.subtree_control"
    wanted = " ".join(f"+{name}" for name in (*NEEDED, "cpuset") if name in (parent / "cgroup.controllers").read_text())
    try:
        control.write_text(wanted, encoding="ascii")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    else:
        return True
    leaf = parent / WORKERS_LEAF
    leaf.mkdir(exist_ok=True)
    for pid in (parent / "cgroup.procs").read_text(encoding="ascii").split():
        if pid == "0":
            continue  # of a pid namespace that we cannot see; written, it would mean ourselves
        try:
            (leaf / "cgroup.procs").write_text(pid, encoding="ascii")
        except ProcessLookupError:
            continue
    return False


class Leaf:
    """The cgroup of one sandbox. The runtime makes it; this reads it, empties it and removes it."""

    def __init__(self, host: CgroupHost, name: str, limit_bytes: int) -> None:
        if not name.startswith(PREFIX):
            raise ValueError(f"a sandbox's cgroup is named {PREFIX}…, not {name}")
        self.host = host
        self.name = name
        self.limit_bytes = limit_bytes

    @property
    def runtime_path(self) -> str:
        """`linux.cgroupsPath` for runc: relative on version 1 (to its place in each hierarchy), absolute on 2."""
        memory = self.host.of("memory")
        if self.host.version == 1 or memory is None:
            return self.name
        return "/" + str((memory.own / self.name).relative_to(memory.mountpoint))

    @property
    def can_limit_swap(self) -> bool:
        """Whether swap is accounted here; where it is not, memory limits hold only without swap."""
        memory = self.host.of("memory")
        if memory is None:
            return False
        if self.host.version == 2:
            return (memory.own / "memory.swap.max").exists() or memory.own == memory.mountpoint
        return (memory.own / "memory.memsw.limit_in_bytes").exists()

    def limit_sockets(self) -> None:
        """On version 1, give the leaf a limit for what waits in IP sockets. To be called before the runtime starts.

        Without a limit of its own version 1 charges it to nobody: a submission with a memory limit of 32 MiB could
        hold gigabytes in unread datagrams. Version 2 charges it to the group. The runtime takes a folder that is
        there, and cannot set this itself (runc 1.1 ignores it). Source: cgroup-v1/memory.rst, section 2.7.
        """
        memory = self.host.of("memory")
        if memory is None or memory.version != 1 or not (memory.own / _SOCKET_LIMIT).exists():
            return
        folder = memory.own / self.name
        folder.mkdir()
        (folder / _SOCKET_LIMIT).write_text(str(self.limit_bytes // _SHARE_OF_SOCKETS), encoding="ascii")

    @property
    def processors(self) -> tuple[int, ...]:
        """The processors to confine the sandbox to: those that this process itself is confined to, if to any.

        An affinity alone would not do, because a process may change its own.
        """
        mine = os.sched_getaffinity(0)
        cpuset = self.host.of("cpuset")
        if cpuset is None or len(mine) == os.cpu_count():
            return ()
        if cpuset.version == 2 and "cpuset" not in (cpuset.own / "cgroup.subtree_control").read_text(encoding="ascii"):
            return ()
        return tuple(sorted(mine))

    def folders(self) -> list[Path]:
        """Every folder that the leaf may have, one for each hierarchy.

        Beside version 1's hierarchies runc makes that of version 2 at its root, wherever it runs itself.
        """
        places = [hierarchy.own / self.name for hierarchy in self.host.hierarchies]
        if self.host.version == 1:
            places += [each.mountpoint / self.name for each in self.host.hierarchies if each.version == 2]
        return list(dict.fromkeys(places))

    def _file(self, controller: str, name: str) -> str | None:
        hierarchy = self.host.of(controller)
        if hierarchy is None:
            return None
        try:
            return (hierarchy.own / self.name / name).read_text(encoding="ascii")
        except (FileNotFoundError, OSError):
            return None

    def _number(self, controller: str, name: str) -> int | None:
        text = self._file(controller, name)
        return int(text) if text is not None and text.strip().isdigit() else None

    def _counter(self, controller: str, name: str, key: str) -> int:
        for line in (self._file(controller, name) or "").splitlines():
            word, _, value = line.partition(" ")
            if word == key:
                return int(value)
        return 0

    @property
    def keeps_peak(self) -> bool:
        """Whether the kernel keeps the most memory that the leaf held; version 2 does since Linux 5.19."""
        return self.host.version == 1 or self._file("memory", "memory.peak") is not None

    def memory_bytes(self) -> int | None:
        """What the leaf holds now, on version 2."""
        return self._number("memory", "memory.current")

    def _peak_without_counter(self, sampled_bytes: int) -> int:
        """At its limit it stood at least once if the kernel counted that; else what was seen is the most we know."""
        if self._counter("memory", "memory.events", "max") > 0:
            return self.limit_bytes
        return max(sampled_bytes, self._number("memory", "memory.current") or 0)

    def usage(self, sampled_bytes: int = 0) -> Usage:
        """Read the kernel's counters. To be called before `remove`.

        Args:
            sampled_bytes: the most memory that was seen in use, for a kernel that does not keep it (`keeps_peak`).

        `oom_kill` counts every kill by the kernel for want of memory, also when the machine as a whole ran out; only
        a leaf that stood at its own limit was to blame itself (version 2 says so, version 1 shows it by its peak).
        """
        if self.host.version == 2:
            kills = self._counter("memory", "memory.events", "oom_kill")
            at_limit = self._counter("memory", "memory.events", "oom") > 0
            peak = self._number("memory", "memory.peak") or self._peak_without_counter(sampled_bytes)
        else:
            kills = self._counter("memory", "memory.oom_control", "oom_kill")
            peak = self._number("memory", "memory.max_usage_in_bytes") or 0
            at_limit = peak >= self.limit_bytes - _CHARGE_BATCH_BYTES
        return Usage(
            oom_kills=kills if at_limit else 0,
            host_oom_kills=0 if at_limit else kills,
            peak_memory_bytes=peak,
            cpu_seconds=self.cpu_seconds(),
            cpu_throttled=self._counter("cpu", "cpu.stat", "nr_throttled"),
            pids_peak=self._number("pids", "pids.peak"),
            pids_refused=self._counter("pids", "pids.events", "max"),
        )

    def cpu_seconds(self) -> float:
        """The processor time of everything that ever ran in the leaf, so far."""
        if self.host.version == 2:
            return self._counter("cpu", "cpu.stat", "usage_usec") / 1e6
        return (self._number("cpuacct", "cpuacct.usage") or 0) / 1e9

    def processes(self) -> list[int]:
        """The process ids in the leaf, as seen from here."""
        return folder_processes(self.folders())

    def kill(self, seconds: float = 5.0) -> bool:
        """End everything in the leaf; False if something was still there after `seconds`."""
        return kill_folders(self.folders(), seconds)

    def remove(self, seconds: float = 2.0) -> None:
        """Remove the empty leaf.

        Raises:
            OSError: if it would not go within `seconds`.
        """
        remove_folders(self.folders(), seconds)


def folder_processes(folders: Sequence[Path]) -> list[int]:
    """The ids of processes in any of these cgroups or below. 0 stands for one that this pid namespace cannot name."""
    found: set[int] = set()
    for folder in folders:
        for place in (folder, *_below(folder)):
            try:
                found.update(map(int, (place / "cgroup.procs").read_text(encoding="ascii").split()))
            except (FileNotFoundError, OSError):
                continue
    return sorted(found)


def kill_folders(folders: Sequence[Path], seconds: float) -> bool:
    """SIGKILL to everything in these cgroups until they are empty; False if they were not after `seconds`."""
    deadline = time.monotonic() + seconds
    for folder in folders:
        try:
            (folder / "cgroup.kill").write_text("1", encoding="ascii")
        except OSError:  # version 1 has no such file, a killed sandbox perhaps no such folder
            continue
    while left := folder_processes(folders):
        for pid in left:
            if pid > 0:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def remove_folders(folders: Sequence[Path], seconds: float) -> None:
    """Remove these empty cgroups. Raises `OSError` if one would not go within `seconds`."""
    deadline = time.monotonic() + seconds
    for folder in folders:
        for place in (*reversed(_below(folder)), folder):
            while True:
                try:
                    place.rmdir()
                except FileNotFoundError:
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.002)
                else:
                    break


def _below(folder: Path) -> list[Path]:
    """Every cgroup below `folder`, parents first."""
    try:
        with os.scandir(folder) as entries:
            inner = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [place for child in inner for place in (child, *_below(child))]
