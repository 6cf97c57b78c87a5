"""Who asks for a worker, and which job's control groups he is held by: told by the kernel, never by himself."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from referee.errors import HostError
from referee.sandbox import cgroups

# Slurm's own names (cgroup/v1: slurm/uid_U/job_J/step_S, with the node's name behind `slurm` where several run on one
# host; cgroup/v2: system.slice/slurmstepd.scope/job_J/step_S). Only root can put a process there, because they begin at
# the root of the tree: in a part that was delegated to him a user may make groups of any name.
_V1 = re.compile(r"/slurm[^/]*/uid_(\d+)/job_(\d+)/step_[^/]+(?:/|$)")
_V2 = re.compile(r"/(?:system\.slice/)?(?:[^/]+_)?slurmstepd\.scope/job_(\d+)/step_[^/]+(?:/|$)")


class NoJobError(HostError):
    """The caller is not held by a job's control groups, so nothing is started for him."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of a Unix socket, and the groups that hold its job.

    Attributes:
        uid, pid: as the kernel recorded them when it connected (SO_PEERCRED, unix(7)).
        job: the number that Slurm gave the job.
        groups: the folders of the control groups that a worker for it shall be in, one for each hierarchy.
        devices: on version 1 the group that says which devices the job may use, if there is one. A worker is not in it:
            below a group that denies some devices runc can start nothing (it first allows to make nodes of any kind),
            and the sandbox has a list of its own anyway, of what may be used.
    """

    uid: int
    pid: int
    job: int
    groups: tuple[Path, ...]
    devices: Path | None = None


@contextlib.contextmanager
def caller(connection: socket.socket) -> Iterator[Caller]:
    """Who connected. Within the context his process id means him and nobody else.

    Raises:
        NoJobError: if he is gone, or in no job's groups.
    """
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid <= 0:
        raise NoJobError("The caller's process cannot be seen from here.", hint="Start it on this machine.")
    try:
        process = os.pidfd_open(pid)
    except OSError as error:
        raise NoJobError("The caller is gone.", hint="It must wait for the answer.") from error
    try:
        found = _found(pid, uid)
        if select.select([process], [], [], 0)[0]:
            raise NoJobError("The caller is gone.", hint="It must wait for the answer.")
        yield found
    finally:
        os.close(process)


def _found(pid: int, uid: int) -> Caller:
    process = Path(f"/proc/{pid}")
    try:
        status = (process / "status").read_text(encoding="ascii", errors="replace")
        host = cgroups.locate(process, seen_from=Path("/proc/self"))
    except OSError as error:
        raise NoJobError("The caller is gone.", hint="It must wait for the answer.") from error
    owners = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    if owners[0] != str(uid):  # another process has the id by now
        raise NoJobError("The caller is gone.", hint="It must wait for the answer.")
    devices = _of_devices_alone(host)
    groups = tuple(each.own for each in host.hierarchies if each is not devices)
    return Caller(uid, pid, _job(host, uid), groups, devices.own if devices else None)


def _job(host: cgroups.CgroupHost, uid: int) -> int:
    """The job whose groups hold memory, and on version 1 the freezer by which Slurm ends it."""
    jobs = set()
    for controller in ("memory", "freezer") if host.version == 1 else ("memory",):
        hierarchy = host.of(controller)
        place = "/" + str(hierarchy.own.relative_to(hierarchy.mountpoint)) if hierarchy else ""
        if host.version == 1:
            match = _V1.match(place)
            if match is None or int(match[1]) != uid:
                raise _outside()
            jobs.add(int(match[2]))
        else:
            match = _V2.match(place)
            if match is None:
                raise _outside()
            jobs.add(int(match[1]))
    if len(jobs) != 1:
        raise _outside()
    return jobs.pop()


def _of_devices_alone(host: cgroups.CgroupHost) -> cgroups.Hierarchy | None:
    hierarchy = host.of("devices")
    return hierarchy if hierarchy is not None and hierarchy.controllers == {"devices"} else None


def _outside() -> NoJobError:
    return NoJobError(
        "The caller is in no Slurm job's control groups, which would hold and end what it starts.",
        hint="Start it by sbatch, on a cluster with ProctrackType=proctrack/cgroup, TaskPlugin=task/cgroup and "
        "ConstrainRAMSpace=yes.",
    )


def join(groups: tuple[Path, ...]) -> None:
    """Move this process into the groups (cgroups(7): 0 means the writer).

    Raises:
        OSError: if one of them is gone: the job has ended.
    """
    for group in groups:
        (group / "cgroup.procs").write_text("0", encoding="ascii")


@contextlib.contextmanager
def within(group: Path | None) -> Iterator[None]:
    """Be in a group of devices for as long as the context lasts; with None, stay where the job's groups are.

    Raises:
        OSError: if the group is gone: the job has ended.
    """
    if group is None:
        yield
        return
    home = _of_devices_alone(cgroups.locate())
    join((group,))
    try:
        yield
    finally:
        if home is not None:
            join((home.own,))
