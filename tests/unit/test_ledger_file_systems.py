"""Which file systems can hold a SQLite ledger."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_histories import new_ledger

from referee.errors import HostError
from referee.ledger import Ledger, file_systems

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")

MOUNTS = r"""
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:20 / /home rw - ext4 /dev/vdb rw
23 22 0:21 / /home/shared\040disk rw shared:1 - nfs4 server:/export rw
24 22 0:22 / /home/b rw - tmpfs tmpfs rw
25 24 0:23 / /home/b rw - fuse.sshfs me@there:/ rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [("/etc", "ext4"), ("/home/shared disk/x/y", "nfs4"), ("/home/shared", "ext4"), ("/home/b/c", "fuse.sshfs")],
)
def test_the_file_system_of_a_place_is_that_of_the_innermost_topmost_mount(place: str, kind: str) -> None:
    assert file_systems.file_system_of(Path(place), MOUNTS) == kind


def test_the_real_mount_table_is_understood(tmp_path: Path) -> None:
    assert file_systems.file_system_of(Path("/proc/self")) == "proc"
    assert file_systems.file_system_of(tmp_path) != "unknown"
    assert not file_systems.is_shared(file_systems.file_system_of(tmp_path))


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "lustre", "gpfs", "ceph")),
        *((kind, True) for kind in ("beegfs", "glusterfs", "ocfs2", "afs", "fuse", "fuse.sshfs", "fuse.s3fs")),
        *((kind, True) for kind in ("fuse.mount-s3", "fuse.rclone", "fuse.juicefs", "fuse.of-tomorrow")),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk")),
        ("fuse.fuse-overlayfs", False),
    ],
)
def test_file_systems_that_other_hosts_may_have_open(kind: str, shared: bool) -> None:
    assert file_systems.is_shared(kind) is shared


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Path]:
    """A folder behind SFTP, mounted by sshfs: a real network file system, whose network is a pair of sockets."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("only root may mount, and only where the kernel has FUSE")
    if shutil.which("sshfs") is None or not SFTP_SERVER.exists():
        pytest.fail("sshfs or sftp-server is missing: scripts/system-packages installs them")
    (tmp_path / "there").mkdir()
    place = tmp_path / "here"
    place.mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen([SFTP_SERVER], stdin=theirs, stdout=theirs)
        client = subprocess.Popen(
            ["sshfs", "-f", "-o", "passive", f":{tmp_path / 'there'}", str(place)], stdin=ours, stdout=ours
        )
    try:
        deadline = time.monotonic() + 60
        while not os.path.ismount(place):
            assert client.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=False)
        for process in (client, server):
            process.terminate()
            process.wait(timeout=60)


def test_a_real_network_file_system_is_refused_and_nothing_is_left_there(remote: Path, tmp_path: Path) -> None:
    folder = remote / "challenge" / ".referee"
    folder.mkdir(parents=True)
    assert (tmp_path / "there" / "challenge" / ".referee").is_dir()
    with pytest.raises(HostError, match=r"network file system \(fuse.sshfs\)") as caught:
        new_ledger(folder)
    assert "PostgreSQL" in caught.value.hint
    assert caught.value.exit_code == 3
    assert list(folder.iterdir()) == []


def test_a_ledger_that_was_copied_there_is_not_opened(remote: Path, tmp_path: Path) -> None:
    new_ledger(tmp_path).close()
    shutil.copy(tmp_path / "ledger.sqlite", remote / "ledger.sqlite")
    with pytest.raises(HostError, match="network file system"):
        Ledger.open(remote / "ledger.sqlite")


def test_the_mend_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "file_system_of", lambda _folder: "lustre")
    with pytest.raises(HostError, match=r"network file system \(lustre\)") as caught:
        new_ledger(tmp_path)
    assert "local disk" in caught.value.hint
    assert 'url = "postgresql://' in caught.value.hint
