"""Which file systems can hold a SQLite ledger: those of one host alone, whose locks are the kernel's."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from referee.errors import HostError

# Other hosts may have the same files open: SQLite's locks and its shared memory are not kept between hosts
# (https://www.sqlite.org/wal.html, section 1). Cluster file systems keep locks, but not the shared memory of the log.
_SHARED = frozenset(
    {
        "9p",
        "acfs",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "cvfs",
        "davfs",
        "exafs",
        "gfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "prl_fs",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
        "wekafs",
    }
)
# What a program serves is trusted only if the program is known to serve nothing but this host's own disks.
_LOCAL_PROGRAMS = frozenset({"fuse-overlayfs"})


def file_system_of(path: Path, mountinfo: str | None = None) -> str:
    """The type of the file system that `path` lies on, as the kernel names it (`proc(5)`, mountinfo)."""
    place = path.resolve()
    if mountinfo is None:
        with suppress(OSError):
            os.statvfs(place)  # an automounted place is mounted when it is first looked at
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    best, found = -1, "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        mount = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        # Of several mounts on the same place the last one is on top.
        if place.is_relative_to(mount) and len(mount.parts) >= best:
            best, found = len(mount.parts), after.split()[0]
    return found


def is_shared(kind: str) -> bool:
    """Whether other hosts may have the files of such a file system open, as far as its type tells.

    A file system of a program (`fuse.sshfs`) counts as shared unless the program is known to be local; `fuseblk` is a
    disk of this host.
    """
    if kind == "fuse" or kind.startswith("fuse."):
        return kind.removeprefix("fuse.") not in _LOCAL_PROGRAMS
    return kind in _SHARED


def refuse_network_file_system(folder: Path) -> None:
    """Refuse a place where SQLite's locks cannot be trusted.

    Raises:
        HostError: naming the file system.
    """
    kind = file_system_of(folder)
    if is_shared(kind):
        raise HostError(
            f"{folder} lies on a network file system ({kind}), where SQLite's locks do not hold between hosts.",
            hint="Put the challenge on a local disk of the machine that runs the controller, or keep its ledger in"
            ' PostgreSQL: `[ledger]` with `url = "postgresql://HOST/DATABASE"` in challenge.toml.',
        )
