"""Reading the host: mounts, cgroups of every kind, programs of an image, and what a dead sandbox left."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from referee.errors import UnsafeHostError
from referee.sandbox import cgroups, doctor, mounts, sweep
from referee.sandbox.box import LOCK_NAME, BoxOutcome
from referee.sandbox.harvest import Refusal, harvest
from referee.sandbox.judging import Seen, judge_inside
from referee.sandbox.peak import SampledPeak
from referee.sandbox.program import why_not_executable

V1 = "{id} 1 0:{id} / {base}/{name} rw - cgroup cgroup rw,{options}\n"
V2 = "9 1 0:9 {root} {base}/{name} rw - cgroup2 cgroup2 rw\n"


def process(folder: Path, mountinfo: str, cgroup: str) -> Path:
    place = folder / "proc"
    place.mkdir()
    (place / "mountinfo").write_text(mountinfo.format_map({"base": folder}))
    (place / "cgroup").write_text(cgroup)
    return place


def hybrid(folder: Path) -> Path:
    names = ["memory", "cpu,cpuacct", "pids"]
    text = "".join(
        V1.format(id=n, base="{base}", name=name, options=name) for n, name in enumerate([*names, "name=systemd"])
    )
    text += V2.format(root="/", base="{base}", name="unified")
    (folder / "unified/user.slice").mkdir(parents=True)
    (folder / "unified/user.slice/cgroup.controllers").write_text("hugetlb\n")
    lines = [f"{n}:{name}:/job/{n}\n" for n, name in enumerate(names)]
    return process(folder, text, "".join(lines) + "7:name=systemd:/\n0::/user.slice\n")


def test_on_version_1_every_hierarchy_has_its_own_place(tmp_path: Path) -> None:
    host = cgroups.locate(hybrid(tmp_path))
    assert (host.version, host.mode) == (1, "hybrid")
    leaf = cgroups.Leaf(host, "referee-x", 1)
    assert leaf.runtime_path == "referee-x"
    assert leaf.folders() == [
        tmp_path / "memory/job/0/referee-x",
        tmp_path / "cpu,cpuacct/job/1/referee-x",
        tmp_path / "pids/job/2/referee-x",
        tmp_path / "name=systemd/referee-x",
        tmp_path / "unified/user.slice/referee-x",
        tmp_path / "unified/referee-x",  # runc makes it there
    ]


def v2(folder: Path, root: str = "/", place: str = "/user.slice/job", controllers: str = "cpu memory pids") -> Path:
    own = folder / "unified" / os.path.relpath(place, root)
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text(controllers)
    (own / "cgroup.subtree_control").write_text("cpu memory pids")
    return process(folder, V2.format(root=root, base="{base}", name="unified"), f"0::{place}\n")


def test_on_version_2_the_leaf_lies_below_the_worker_s_group(tmp_path: Path) -> None:
    host = cgroups.give_controllers(cgroups.locate(v2(tmp_path)))
    assert (host.version, host.mode) == (2, "v2")
    leaf = cgroups.Leaf(host, "referee-x", 1)
    assert leaf.folders() == [tmp_path / "unified/user.slice/job/referee-x"]
    assert leaf.runtime_path == "/user.slice/job/referee-x"


def test_on_version_2_a_worker_in_the_workers_leaf_puts_sandboxes_beside_it(tmp_path: Path) -> None:
    host = cgroups.locate(v2(tmp_path, place=f"/job/{cgroups.WORKERS_LEAF}"))
    (tmp_path / "unified/job/cgroup.subtree_control").write_text("cpu memory pids")
    leaf = cgroups.Leaf(cgroups.give_controllers(host), "referee-x", 1)
    assert leaf.folders() == [tmp_path / "unified/job/referee-x"]


def test_in_a_container_the_mount_shows_a_part_of_the_tree(tmp_path: Path) -> None:
    host = cgroups.locate(v2(tmp_path, root="/docker/abc", place="/docker/abc"))
    assert cgroups.Leaf(host, "referee-x", 1).folders() == [tmp_path / "unified/referee-x"]


def test_a_mount_of_a_group_whose_name_only_begins_alike_is_not_ours(tmp_path: Path) -> None:
    place = v2(tmp_path, root="/", place="/job/abc")
    text = V2.format(root="/job/ab", base="{base}", name="other") + V2.format(root="/", base="{base}", name="unified")
    (tmp_path / "other").mkdir()
    (place / "mountinfo").write_text(text.format_map({"base": tmp_path}))
    assert cgroups.Leaf(cgroups.locate(place), "referee-x", 1).folders() == [tmp_path / "unified/job/abc/referee-x"]


def test_processes_that_cannot_be_named_are_not_taken_for_ourselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = cgroups.locate(v2(tmp_path))
    (own,) = [hierarchy.own for hierarchy in host.hierarchies]
    (own / "cgroup.subtree_control").write_text("")
    (own / "cgroup.procs").write_text("0\n0\n")
    real = Path.write_text

    def busy(path: Path, text: str, encoding: str | None = None) -> int:
        if path.name == "cgroup.subtree_control":
            raise OSError(errno.EBUSY, "busy")
        assert path.name != "cgroup.procs"
        return real(path, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", busy)
    with pytest.raises(UnsafeHostError, match="stay in the worker's cgroup"):
        cgroups.give_controllers(host)


def test_without_the_controllers_the_machine_is_unsafe(tmp_path: Path) -> None:
    with pytest.raises(UnsafeHostError, match="memory"):
        cgroups.locate(v2(tmp_path, controllers="cpu pids"))


def test_kills_count_as_the_sandbox_s_own_only_at_its_own_limit(tmp_path: Path) -> None:
    host = cgroups.locate(v2(tmp_path))
    leaf = cgroups.Leaf(host, "referee-x", 2**20)
    (folder,) = leaf.folders()
    folder.mkdir()
    for name, text in {
        "memory.peak": "1048576\n", "cpu.stat": "usage_usec 2500000\nnr_throttled 3\n", "pids.peak": "7\n",
        "pids.events": "max 2\n", "memory.events": "low 0\noom 1\noom_kill 2\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    assert leaf.usage() == cgroups.Usage(2, 0, 2**20, 2.5, 3, 7, 2)
    (folder / "memory.events").write_text("oom 0\noom_kill 2\n")
    assert (leaf.usage().oom_kills, leaf.usage().host_oom_kills) == (0, 2)


def test_without_the_kernel_s_peak_the_largest_that_was_seen_counts(tmp_path: Path) -> None:
    leaf = cgroups.Leaf(cgroups.locate(v2(tmp_path)), "referee-x", 2**20)
    (folder,) = leaf.folders()
    folder.mkdir()
    (folder / "memory.events").write_text("max 0\noom 0\noom_kill 0\n")
    current = folder / "memory.current"
    current.write_text("4096\n")
    assert not leaf.keeps_peak
    with SampledPeak(leaf.memory_bytes) as sampled:
        current.write_text("300000\n")
        deadline = time.monotonic() + 10
        while sampled.peak_bytes < 300_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        current.write_text("0\n")
    assert leaf.usage(sampled.peak_bytes).peak_memory_bytes == 300_000
    (folder / "memory.events").write_text("max 3\noom 0\noom_kill 0\n")
    assert leaf.usage(sampled.peak_bytes).peak_memory_bytes == 2**20
    (folder / "memory.peak").write_text("400000\n")
    assert leaf.keeps_peak
    assert leaf.usage(sampled.peak_bytes).peak_memory_bytes == 400_000


@pytest.mark.parametrize(("release", "status"), [("5.15.0-91-generic", "warn"), ("6.1.0-1", "ok")])
def test_the_doctor_says_that_a_kernel_keeps_no_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, status: str
) -> None:
    host = cgroups.locate(v2(tmp_path, place="/"))
    monkeypatch.setattr(doctor.cgroups, "locate", lambda: host)
    monkeypatch.setattr(doctor.platform, "release", lambda: release)
    check = doctor._cgroups()
    assert check.status == status
    assert ("5.19" in check.mend) == (status == "warn")


@pytest.mark.parametrize(
    ("version", "users", "status"),
    [
        ((1, 1, 5), True, "warn"), ((1, 1, 5), False, "fail"), ((1, 0, 3), True, "fail"), ((1, 1, 12), True, "ok"),
        ((1, 2, 0), False, "ok"),
    ],
)  # fmt: skip
def test_a_runc_with_known_escapes_needs_a_user_namespace_before_it(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], users: bool, status: str
) -> None:
    monkeypatch.setattr(doctor.runc, "find_runc", lambda: "/usr/bin/runc")
    monkeypatch.setattr(doctor.runc, "runc_version", lambda _: version)
    check = doctor._runc("runc", enclosing=users)
    assert check.status == status
    assert bool(check.mend) == (status != "ok")


def test_rootless_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    check = doctor._root()
    assert check.status == "fail"
    assert "cgroup v1 ignores limits" in check.mend


def test_on_version_1_the_peak_says_whether_the_limit_was_reached(tmp_path: Path) -> None:
    leaf = cgroups.Leaf(cgroups.locate(hybrid(tmp_path)), "referee-x", 2**30)
    memory = leaf.folders()[0]
    memory.mkdir(parents=True)
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    (memory / "memory.max_usage_in_bytes").write_text(f"{2**30 - 4096}\n")
    assert (leaf.usage().oom_kills, leaf.usage().host_oom_kills) == (1, 0)
    (memory / "memory.max_usage_in_bytes").write_text(f"{2**29}\n")
    assert (leaf.usage().oom_kills, leaf.usage().host_oom_kills) == (0, 1)


def test_a_leaf_has_a_name_of_ours() -> None:
    with pytest.raises(ValueError, match="referee-"):
        cgroups.Leaf(cgroups.CgroupHost(1, ()), "../other", 1)


def test_a_sweep_that_is_killed_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock goes last: without it nobody would find what is left."""
    folder = tmp_path / "s-1"
    (folder / "kept").mkdir(parents=True)
    (folder / LOCK_NAME).touch()
    (folder / "aaa").touch()

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path)
    assert (folder / LOCK_NAME).exists()
    assert sweep(tmp_path) == [folder]
    assert not folder.exists()


def test_mounts_are_read_with_their_escapes_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n"
        "2 1 0:1 /a\\040b /run\\134x rw,nosuid - tmpfs none rw,size=1k\n"
        "3 1 0:2 / /run rw master:2 - tmpfs none\n"
    )
    root, odd, run = mounts.read_mounts(path)
    assert (root.shared, odd.shared, run.shared) == (True, False, False)
    assert (odd.target, odd.root, odd.super_options) == ("/run\\x", "/a b", "rw,size=1k")
    assert mounts.mount_over(Path("/run/referee/box"), [root, odd, run]) == run
    assert mounts.mount_over(Path("/runner"), [root, odd, run]) == root


def elf(machine: int = 62, bits: int = 2, loader: bytes = b"") -> bytes:
    head = bytearray(64)
    head[:6] = b"\x7fELF" + bytes([bits, 1])
    struct.pack_into("<H", head, 18, machine)
    if loader:
        struct.pack_into("<Q", head, 32, 64)
        struct.pack_into("<HH", head, 54, 56, 1)
        segment = bytearray(56)
        struct.pack_into("<I", segment, 0, 3)
        struct.pack_into("<Q", segment, 8, 120)
        struct.pack_into("<Q", segment, 32, len(loader) + 1)
        return bytes(head + segment) + loader + b"\0"
    return bytes(head)


PROGRAMS: list[tuple[dict[str, bytes], str | None]] = [
    ({"/x": elf()}, None),
    ({"/x": elf(loader=b"/ld"), "/ld": elf()}, None),
    ({"/x": elf(loader=b"/ld")}, "needs the loader /ld"),
    ({"/x": elf(machine=183)}, "not a program for amd64"),
    ({"/x": elf(bits=1)}, "not a 64-bit program"),
    ({"/x": b"\x7fELF"}, "not a 64-bit program"),
    ({"/x": b"#!/y -a\n", "/y": elf()}, None),
    ({"/x": b"#! /y\n"}, "needs /y"),
    ({"/x": b"#!\n"}, "names no interpreter"),
    ({"/x": b"#!/x\n"}, "too many scripts"),
    ({"/x": b"echo\n"}, "neither a Linux program nor a script"),
    ({"/x": b""}, "neither a Linux program nor a script"),
    ({}, "does not exist"),
]


@pytest.mark.parametrize(("files", "reason"), PROGRAMS, ids=[str(n) for n in range(len(PROGRAMS))])
def test_a_program_that_the_kernel_cannot_execute_is_known_beforehand(
    files: dict[str, bytes], reason: str | None
) -> None:
    said = why_not_executable("/x", "amd64", files.get)
    assert (said is None) if reason is None else (said is not None and reason in said)


@given(st.binary(max_size=200))
def test_any_program_s_head_is_judged_without_an_exception(tail: bytes) -> None:
    for head in (tail, b"\x7fELF\x02\x01" + tail, b"#!" + tail, elf()[:32] + tail):
        why_not_executable("/x", "amd64", {"/x": head}.get)


def real_programs() -> list[Path]:
    return [path for path in map(Path, ("/bin/sh", "/usr/bin/env", "/usr/bin/python3")) if path.exists()]


@pytest.mark.parametrize("path", real_programs())
def test_programs_of_this_machine_are_executable(path: Path) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]

    def head(name: str) -> bytes | None:
        return Path(name).read_bytes()[:4096] if Path(name).is_file() else None

    assert why_not_executable(str(path), machine, head) is None


def make_link(folder: Path) -> None:
    (folder / "x").symlink_to("/etc/passwd")


def make_hard_link(folder: Path) -> None:
    (folder / "y").write_text("a")
    (folder / "x").hardlink_to(folder / "y")


def make_socket(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path may have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x")
    finally:
        os.chdir(here)


def make_sparse(folder: Path) -> None:
    (folder / "x").touch()
    os.truncate(folder / "x", 1 << 40)


LEFT: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (make_link, "linked"),
    "hard link": (make_hard_link, "linked"),
    "fifo": (lambda folder: os.mkfifo(folder / "x"), "not_a_file"),
    "folder": (lambda folder: (folder / "x").mkdir(), "not_a_file"),
    "socket": (make_socket, "not_a_file"),
    "nothing": (lambda folder: None, "missing"),
    "large": (lambda folder: (folder / "x").write_bytes(b"12345"), "too_large"),
    "sparse": (make_sparse, "too_large"),
}


@pytest.mark.parametrize("name", LEFT)
def test_only_a_plain_file_is_harvested(tmp_path: Path, name: str) -> None:
    make, kind = LEFT[name]
    make(tmp_path)
    found = harvest(tmp_path, "x", 4)
    assert isinstance(found, Refusal)
    assert found.kind == kind
    assert str(tmp_path) not in found.reason


def test_a_plain_file_is_harvested_whole(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    assert harvest(tmp_path, "x", 4) == b"1234"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_a_name_that_leads_outside_is_never_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_text("outside")
    inner = tmp_path / "inner"
    (inner / "a").mkdir(parents=True)
    assert isinstance(harvest(inner, name, 100), Refusal)


def test_a_probe_that_says_nothing_shows_nothing() -> None:
    silent = Seen(BoxOutcome(started=False, start_error="runc said no"), {})
    (check,) = judge_inside(silent, silent, 0)
    assert not check.held
    assert "runc said no" in check.seen
