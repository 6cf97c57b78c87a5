"""The OCI runtime configuration of one sandbox, generated from the policy in one place.

Source: OCI runtime specification 1.0.2, `config.json`. Everything that this file does not grant is not granted.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from referee.sandbox.cdi import DeviceNode
from referee.sandbox.identities import SIZE, IdRange
from referee.sandbox.policy import SandboxPolicy
from referee.sandbox.rootfs import Process
from referee.sandbox.runtime import Overhead
from referee.sandbox.seccomp import filter_profile

HOSTNAME = "sandbox"

# Every namespace that runc knows (a time namespace needs a later runc, and clocks tell nothing that matters here).
_NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup", "user")

# Tells of the host or of neighbours, or is a way to signal to them. What is left of /proc and still counts for the
# whole machine (stat, meminfo, cpuinfo, uptime, vmstat is masked) is needed by ordinary programs: docs/security.md.
_MASKED_NAMES = """
    acpi asound buddyinfo cmdline config.gz consoles diskstats driver dynamic_debug execdomains fb interrupts iomem
    ioports irq kallsyms kcore key-users keys kmsg kpagecgroup kpagecount kpageflags latency_stats loadavg locks mdstat
    misc modules mtrr pagetypeinfo partitions pressure sched_debug schedstat scsi slabinfo softirqs swaps
    timer_list timer_stats vmallocinfo vmstat zoneinfo
    sys/fs/aio-nr sys/fs/dentry-state sys/fs/file-nr sys/fs/inode-nr sys/fs/inode-state sys/kernel/pty/nr
    sys/kernel/random/boot_id
"""
_MASKED_OF_NODES = ("meminfo", "numastat", "vmstat")
# A mask would be /dev/null, which opens for writing: no harm, but no proof either.
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/sys", "/proc/sysrq-trigger")

_PERIOD_US = 100_000

_PENDING_SIGNALS = 2048
_TERMINALS = 64  # of kernel.pty.max (4,096) for all sandboxes of a machine


def runtime_configuration(
    policy: SandboxPolicy,
    process: Process,
    ids: IdRange,
    root: str,
    cgroup: str,
    architecture: str,
    *,
    swap: bool,
    processors: tuple[int, ...] = (),
    nodes: Sequence[tuple[DeviceNode, Path]] = (),
    extra: Overhead = Overhead(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        root: path of the prepared root file system, with data, output and /tmp already mounted in it.
        cgroup: path of the leaf as the runtime expects it.
        architecture: the image's, as OCI writes it.
        swap: whether this machine's cgroups can limit swap.
        processors: the only ones to run on; empty for any.
        nodes: devices to be given, each with our own node for it.
        extra: what the runtime itself takes of the cgroup.
    """
    mapping = [{"containerID": 0, "hostID": ids.base, "size": SIZE}]
    return {
        "ociVersion": "1.0.2",
        "hostname": HOSTNAME,
        "root": {"path": root, "readonly": not policy.root_writable},
        "process": _process(policy, process),
        "mounts": [*_mounts(policy), *(_mount(node.path, "bind", str(place), ["bind"]) for node, place in nodes)],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": name} for name in _NAMESPACES],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "resources": _resources(policy, processors, extra, [node for node, _ in nodes], swap=swap),
            "maskedPaths": _masked_paths(),
            "readonlyPaths": list(_READ_ONLY),
            "seccomp": filter_profile(architecture),
        },
    }


def _masked_paths() -> list[str]:
    nodes = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))
    return [
        *(f"/proc/{name}" for name in _MASKED_NAMES.split()),
        *(str(node / name) for node in nodes for name in _MASKED_OF_NODES),
    ]


def _process(policy: SandboxPolicy, process: Process) -> dict[str, Any]:
    return {
        "terminal": False,
        "user": {"uid": process.uid, "gid": process.gid, "additionalGids": list(process.groups), "umask": 0o022},
        "args": list(process.arguments),
        "env": [f"{name}={value}" for name, value in process.environment],
        "cwd": process.folder,
        "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
        "rlimits": [{"type": name, "soft": value, "hard": value} for name, value in rlimits(policy).items()],
        "noNewPrivileges": True,
        # When the machine as a whole runs out of memory, a sandbox goes before anything of the operator's.
        "oomScoreAdj": 1000,
    }


def rlimits(policy: SandboxPolicy) -> dict[str, int]:
    """Resource limits of the first process, at or below the host's own (raising needs CAP_SYS_RESOURCE)."""
    wanted = {
        "RLIMIT_NOFILE": policy.open_files,
        # A second fence behind the pids cgroup; wider, so that a refusal is counted there.
        "RLIMIT_NPROC": 2 * policy.pids + 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": max(policy.output_bytes, policy.scratch_bytes, policy.shm_bytes),
        "RLIMIT_MEMLOCK": 65536,
        # Signals and timers that wait are counted for the host's root too, who made the user namespace.
        "RLIMIT_SIGPENDING": _PENDING_SIGNALS,
        "RLIMIT_RTPRIO": 0,
        "RLIMIT_NICE": 0,
    }
    return {name: _at_most_host(name, value) for name, value in wanted.items()}


def _at_most_host(name: str, value: int) -> int:
    hard = resource.getrlimit(getattr(resource, name))[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _mounts(policy: SandboxPolicy) -> list[dict[str, Any]]:
    locked = ["nosuid", "noexec"]
    return [
        _mount("/proc", "proc", "proc", [*locked, "nodev"]),
        _mount("/dev", "tmpfs", "tmpfs", [*locked, "mode=755", "size=65536", "nr_inodes=64"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            [*locked, "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", f"max={_TERMINALS}"],
        ),
        _mount(
            "/dev/shm",  # noqa: S108 - inside the container
            "tmpfs",
            "shm",
            [*locked, "nodev", "mode=1777", f"size={policy.shm_bytes}", f"nr_inodes={policy.scratch_files}"],
        ),
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


def _resources(
    policy: SandboxPolicy,
    processors: tuple[int, ...],
    extra: Overhead,
    nodes: Sequence[DeviceNode],
    *,
    swap: bool,
) -> dict[str, Any]:
    memory: dict[str, Any] = {"limit": policy.memory_bytes + extra.memory_bytes}
    if swap:
        memory["swap"] = memory["limit"]  # memory and swap together: no swap at all
    cpu: dict[str, Any] = {"quota": max(1000, round(policy.cpus * _PERIOD_US)), "period": _PERIOD_US}
    if processors:
        cpu["cpus"] = ",".join(map(str, processors))
    return {
        "devices": [
            {"allow": False, "access": "rwm"},
            *({"allow": True, "type": "c", "major": n.major, "minor": n.minor, "access": n.access} for n in nodes),
        ],
        "memory": memory,
        "cpu": cpu,
        "pids": {"limit": policy.pids + extra.pids},
    }
