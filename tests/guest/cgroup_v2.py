"""What only cgroup version 2 can show, in the guest: delegation, refusals, whose limit it was, and what stands behind.

Named so that the host's test run does not collect it. The process that runs this lies in a delegated group.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from referee.errors import HostError, UnsafeHostError
from referee.sandbox import Box, cgroups, enclosed, examine_host, kernel, mounts, sweep
from sandbox_world import MIB, World, cgroup_of, disk_node

pytestmark = pytest.mark.containers

CGROUPS = Path("/sys/fs/cgroup")
NEW_CGROUPS = 0x02000000

# bpf(2), linux/bpf.h
_BPF_CALL, _BPF_PROG_QUERY, _BPF_CGROUP_DEVICE = 321, 16, 6

ENDLESS = "trap '' TERM; (setsid sleep 1000 &); while :; do sleep 0.1; done"
EATER = "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    (made.layer / "bin/setsid").symlink_to("busybox")
    return made


@pytest.fixture
def group() -> Iterator[Path]:
    """A delegated group of its own, gone afterwards with all that is below."""
    made = CGROUPS / f"test-{os.urandom(4).hex()}.scope"
    made.mkdir()
    yield made
    assert cgroups.kill_folders([made], 10)
    cgroups.remove_folders([made], 10)


def nothing() -> None:
    """Nothing is different."""


def within(place: Path, work: Any, before: Any = nothing) -> Any:
    """What `work` returns when it runs as a worker does, whose outer process was born in the cgroup `place`.

    Args:
        before: what that process does first, in a mount namespace of its own.
    """
    reader, writer = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            (place / "cgroup.procs").write_text("0")
            kernel.unshare(kernel.NEW_MOUNTS)
            kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
            before()
            try:
                said = {"result": enclosed(work)}
            except HostError as error:
                said = {"error": error.message}
            os.write(writer, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(outer, 0)
    assert "error" not in answer, answer
    return answer["result"]


def run(world: World, image: Any, **limits: Any) -> dict[str, Any]:
    """One sandbox of the calling process, which is enclosed already: its outcome, and what its leaf said."""
    from referee.challenge import Contract  # noqa: PLC0415 - in the child only
    from referee.sandbox import sandbox_policy  # noqa: PLC0415
    from sandbox_world import LIMITS  # noqa: PLC0415

    class Kept:
        """The log's end is not looked at."""

        def write(self, _: bytes) -> int:
            return 0

    files: dict[str, str] = {}
    real = cgroups.Leaf.usage

    def usage(leaf: cgroups.Leaf, *seen: int) -> cgroups.Usage:
        for name in (
            "memory.events", "memory.peak", "memory.max", "memory.swap.max", "memory.swap.current", "pids.events",
            "pids.max", "cpu.max", "cpu.stat", "cpuset.cpus.effective",
            "cgroup.procs",
        ):  # fmt: skip
            files[name] = (leaf.folders()[0] / name).read_text()
        return real(leaf, *seen)

    cgroups.Leaf.usage = usage  # type: ignore[method-assign]  # this process ends with the sandbox
    folder = world.run_folder / f"box-{os.urandom(4).hex()}"
    folder.mkdir()
    policy = sandbox_policy(Contract(), LIMITS.model_copy(update=limits))
    with Box(policy, image, world.data, None, folder) as box:
        outcome = box.run(Kept())  # type: ignore[arg-type]  # all that is asked of a log
        record = [str(path) for path in cgroup_of(folder / "cgroups.json")]
    assert not [path for path in record if Path(path).exists()]
    return {"outcome": asdict(outcome), "files": files, "leaf": record}


def counter(text: str, key: str) -> int:
    return int(dict(line.split() for line in text.splitlines())[key])


def test_this_machine_has_nothing_but_version_2() -> None:
    host = cgroups.locate()
    assert host.mode == "v2"
    assert len(host.hierarchies) == 1
    assert not [mount for mount in mounts.read_mounts() if mount.kind == "cgroup"]
    leaf = cgroups.Leaf(host, "referee-look", 0)
    assert leaf.folders() == [host.hierarchies[0].own / "referee-look"]
    assert leaf.can_limit_swap


def test_a_worker_in_a_delegated_group_makes_room_for_limited_children(world: World, group: Path) -> None:
    """A group with processes cannot limit its children: they move into a leaf beside the sandboxes."""

    def work() -> dict[str, Any]:
        found = run(world, world.shell("true"))
        return found | {
            "own": Path("/proc/self/cgroup").read_text().strip(),
            "inner": (group / "cgroup.procs").read_text(),
            "given": (group / "cgroup.subtree_control").read_text().split(),
            "again": run(world, world.shell("exit 4"))["outcome"]["exit_status"],
        }

    found = within(group, work)
    assert found["outcome"]["exit_status"] == 0
    assert found["own"] == f"0::/{group.name}/{cgroups.WORKERS_LEAF}"
    assert found["inner"] == ""
    assert {"memory", "cpu", "pids"} <= set(found["given"])
    assert [Path(leaf).parent for leaf in found["leaf"]] == [group]
    assert found["again"] == 4


def test_workers_that_start_together_in_one_group_all_find_room(world: World, group: Path) -> None:
    statuses: list[int] = []

    def one(status: int) -> None:
        statuses.append(within(group, lambda: run(world, world.shell(f"exit {status}")))["outcome"]["exit_status"])

    threads = [threading.Thread(target=one, args=(status,)) for status in (3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [3, 4, 5]


def test_a_worker_in_a_container_finds_its_group_by_its_own_namespace(world: World, group: Path) -> None:
    """Where Referee itself runs in a container, the root of its cgroup namespace looks like the root of the tree."""

    def before() -> None:
        kernel.unshare(NEW_CGROUPS)
        kernel.unmount(CGROUPS, kernel.DETACH)
        kernel.mount("cgroup2", CGROUPS, "cgroup2", 0)

    found = within(group, lambda: run(world, world.python(EATER), memory=48 * MIB), before)
    assert found["outcome"]["oom_kills"] == 1
    assert [Path(leaf).parent for leaf in found["leaf"]] == [CGROUPS]


def test_a_group_without_controllers_is_refused(group: Path) -> None:
    inner = group / "undelegated"
    inner.mkdir()  # the group above passes nothing on

    def work() -> dict[str, Any]:
        checks = {check.name: check for check in examine_host()}
        try:
            cgroups.give_controllers(cgroups.locate())
        except UnsafeHostError as error:
            return {"said": error.message, "hint": error.hint, "doctor": checks["cgroups"].as_json()}
        return {"said": "", "doctor": checks["cgroups"].as_json()}

    found = within(inner, work)
    assert "cannot limit memory, cpu, pids" in found["said"]
    assert "Delegate=yes" in found["hint"]
    assert found["doctor"]["status"] == "fail"
    assert "Delegate=yes" in found["doctor"]["mend"]


def test_a_read_only_tree_is_refused(world: World, group: Path) -> None:
    """As in an ordinary container."""

    def before() -> None:
        kernel.mount("none", CGROUPS, None, kernel.BIND | kernel.REMOUNT | kernel.RDONLY)

    def work() -> dict[str, Any]:
        checks = {check.name: check for check in examine_host()}
        try:
            run(world, world.shell("true"))
        except UnsafeHostError as error:
            return {"said": error.message, "hint": error.hint, "doctor": checks["cgroups"].as_json()}
        return {"said": "", "doctor": checks["cgroups"].as_json()}

    found = within(group, work, before)
    assert "cannot hold limited children" in found["said"]
    assert "Delegate=yes" in found["hint"]
    assert found["doctor"]["status"] == "fail"


def test_memory_is_told_by_the_leaf_s_events_and_peak(world: World, group: Path) -> None:
    found = within(group, lambda: run(world, world.python(EATER), memory=48 * MIB))
    outcome, files = found["outcome"], found["files"]
    assert outcome["signal"] == signal.SIGKILL
    assert outcome["oom_kills"] == counter(files["memory.events"], "oom_kill") == 1
    assert counter(files["memory.events"], "oom") >= 1
    assert outcome["peak_memory_bytes"] == int(files["memory.peak"]) <= 48 * MIB == int(files["memory.max"])
    assert outcome["peak_memory_bytes"] > 44 * MIB


def test_a_kernel_that_keeps_no_peak_is_asked_for_it(world: World, group: Path) -> None:
    """As before Linux 5.19. The counter is looked at from outside, and compared with what was seen."""
    real = cgroups.Leaf._file

    def without(leaf: cgroups.Leaf, controller: str, name: str) -> str | None:
        return None if name == "memory.peak" else real(leaf, controller, name)

    def work() -> Any:
        cgroups.Leaf._file = without  # type: ignore[method-assign]  # this process ends with the sandbox
        held = run(world, world.python("import time\nx = b'x' * (24 << 20)\ntime.sleep(2)"), memory=48 * MIB)
        return [held, run(world, world.python(EATER), memory=48 * MIB)]

    held, killed = within(group, work)
    peak = int(held["files"]["memory.peak"])
    assert peak // 2 < held["outcome"]["peak_memory_bytes"] <= peak
    assert killed["outcome"]["oom_kills"] == 1
    assert killed["outcome"]["peak_memory_bytes"] == 48 * MIB  # the kernel counted that it stood at its limit


def test_a_self_kill_is_not_a_lack_of_memory(world: World, group: Path) -> None:
    """Files that were only read fill the limit too, as cache that the kernel takes back."""
    (world.data / "large").write_bytes(bytes(64 * MIB))
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")  # else it is on this test's own account
    script = "cat /data/large > /dev/null; sh -c 'kill -9 $$'; exit $?"
    found = within(group, lambda: run(world, world.shell(script), memory=32 * MIB))
    assert found["outcome"]["exit_status"] == 137
    assert found["outcome"]["peak_memory_bytes"] > 28 * MIB
    assert (found["outcome"]["oom_kills"], found["outcome"]["host_oom_kills"]) == (0, 0)


def test_the_group_above_that_is_full_is_the_host_s_doing(world: World, group: Path) -> None:
    """The sandbox is killed, having stayed within its own limit; the worker beside it is not."""
    (group / "memory.max").write_text(str(96 * MIB))
    found = within(group, lambda: run(world, world.python(EATER), memory=256 * MIB))
    assert counter(found["files"]["memory.events"], "oom_kill") == 1
    assert (found["outcome"]["oom_kills"], found["outcome"]["host_oom_kills"]) == (0, 1)


def test_no_memory_goes_to_swap(world: World, group: Path, tmp_path: Path) -> None:
    swap = tmp_path / "swap"
    swap.write_bytes(bytes(128 * MIB))
    swap.chmod(0o600)
    busybox = "/usr/bin/busybox"
    subprocess.run([busybox, "mkswap", swap], check=True, capture_output=True)
    subprocess.run([busybox, "swapon", swap], check=True)
    try:
        (check,) = [check for check in examine_host() if check.name == "swap"]
        assert (check.status, check.seen) == ("ok", "limited together with memory")
        found = within(group, lambda: run(world, world.python(EATER), memory=48 * MIB))
    finally:
        subprocess.run([busybox, "swapoff", swap], check=True)
    assert found["outcome"]["oom_kills"] == 1
    assert found["files"]["memory.swap.max"].strip() == "0"
    assert found["outcome"]["peak_memory_bytes"] <= 48 * MIB


def test_a_fork_bomb_is_counted_by_the_leaf_s_events(world: World, group: Path) -> None:
    found = within(group, lambda: run(world, world.shell("b() { b | b & }; b; sleep 3"), pids=32))
    assert found["outcome"]["pids_refused"] == counter(found["files"]["pids.events"], "max") > 0
    assert found["files"]["pids.max"].strip() == "32"
    assert found["files"]["cgroup.procs"] == ""  # all of it dead before the counters were read


def test_processor_time_is_limited_and_measured(world: World, group: Path) -> None:
    limits = {"cpus": 0.3, "wall_time": timedelta(seconds=2)}
    found = within(group, lambda: run(world, world.shell("while :; do :; done"), **limits))
    outcome, files = found["outcome"], found["files"]
    assert files["cpu.max"].split() == ["30000", "100000"]
    assert outcome["cpu_seconds"] == counter(files["cpu.stat"], "usage_usec") / 1e6
    # The leaf pays for the runtime's own start as well, which takes long on this processor and begins without a limit.
    assert 0 < (outcome["cpu_seconds"] - outcome["start_cpu_seconds"]) / outcome["wall_seconds"] < 0.45, outcome
    assert outcome["cpu_throttled"] == counter(files["cpu.stat"], "nr_throttled") > 0


def test_a_worker_s_processors_are_its_sandbox_s(world: World, group: Path) -> None:
    """By the leaf's cpuset: an affinity alone could be widened from inside."""
    program = "import os\nos.sched_setaffinity(0, {0, 1})\nos._exit(len(os.sched_getaffinity(0)))"

    def work() -> dict[str, Any]:
        os.sched_setaffinity(0, {1})
        return run(world, world.python(program))

    found = within(group, work)
    assert found["files"]["cpuset.cpus.effective"].strip() == "1"
    assert found["outcome"]["exit_status"] == 1


def test_one_write_to_the_kernel_ends_everything_in_a_group(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cgroup.kill` reaches processes in groups below, stopped ones, and those that fork meanwhile."""
    inner = group / "inner"
    inner.mkdir()
    started = []
    for place, script in ((group, "while :; do sleep 0.01 & done"), (inner, "kill -STOP $$")):

        def enter(place: Path = place) -> None:
            (place / "cgroup.procs").write_text("0")

        command = ["/usr/bin/busybox", "sh", "-c", script]
        started.append(subprocess.Popen(command, preexec_fn=enter))  # noqa: PLW1509 - no thread runs here
    time.sleep(0.5)
    assert len(cgroups.folder_processes([group])) >= 2
    one_by_one: list[int] = []
    monkeypatch.setattr(cgroups.os, "kill", lambda pid, _: one_by_one.append(pid))
    assert cgroups.kill_folders([group], 10)
    assert cgroups.folder_processes([group]) == []
    assert [process.wait() for process in started] == [-signal.SIGKILL, -signal.SIGKILL]


def test_the_device_program_stands_where_the_mount_s_flag_does_not(
    world: World, group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 has no device controller: runc attaches a program to the leaf. Seen with `nodev` switched off."""
    disk_node(world.layer / "disk")
    os.mknod(world.layer / "port", 0o20666, os.makedev(4, 64))
    os.mknod(world.layer / "zeros", 0o20666, os.makedev(1, 5))
    for name in ("port", "zeros"):
        (world.layer / name).chmod(0o666)
    monkeypatch.setattr(mounts, "SAFE", 0)
    overlay = mounts.overlay
    monkeypatch.setattr(mounts, "overlay", lambda t, lower, **rest: overlay(t, lower, **(rest | {"flags": 0})))
    attached: list[int] = []
    real = cgroups.Leaf.usage

    def usage(leaf: cgroups.Leaf, *seen: int) -> cgroups.Usage:
        attached.append(_device_programs(leaf.folders()[0]))
        return real(leaf, *seen)

    monkeypatch.setattr(cgroups.Leaf, "usage", usage)
    tries = "".join(f"if cat /{name} | head -c 1 > /dev/null; then :; fi; " for name in ("zeros", "disk", "port"))
    (world.layer / "bin/head").symlink_to("busybox")

    def work() -> dict[str, Any]:
        place = world.run_folder / "log"
        policy = _policy()
        folder = world.run_folder / "box"
        folder.mkdir()
        with place.open("wb") as log, Box(policy, world.shell(tries), world.data, None, folder) as box:
            box.run(log)
        return {"log": place.read_text(), "attached": attached}

    found = within(group, work)
    assert found["attached"] == [1]
    refused = [line for line in found["log"].splitlines() if "Operation not permitted" in line]
    assert [("disk" in line, "port" in line) for line in refused] == [(True, False), (False, True)], found["log"]
    assert "zeros" not in found["log"]


def _policy() -> Any:
    from referee.challenge import Contract  # noqa: PLC0415 - as `run` does
    from referee.sandbox import sandbox_policy  # noqa: PLC0415
    from sandbox_world import LIMITS  # noqa: PLC0415

    return sandbox_policy(Contract(), LIMITS)


def _device_programs(group: Path) -> int:
    """How many device programs are attached to a cgroup (bpf(2), BPF_PROG_QUERY)."""
    descriptor = os.open(group, os.O_RDONLY)
    try:
        # target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt; room for later kernels' fields
        question = ctypes.create_string_buffer(
            struct.pack("IIIIQI", descriptor, _BPF_CGROUP_DEVICE, 0, 0, 0, 0).ljust(64, b"\0"), 64
        )
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(_BPF_CALL, _BPF_PROG_QUERY, question, 64) != 0:
            raise OSError(ctypes.get_errno(), "bpf")
        return int(struct.unpack_from("I", question, 24)[0])
    finally:
        os.close(descriptor)


def test_the_sandbox_sees_nothing_of_the_tree(world: World) -> None:
    script = "cat /proc/self/cgroup; ls /sys/fs 2>&1; cat /proc/self/mountinfo"
    ran = world.run(world.shell(script))
    assert ran.log.splitlines()[0] == "0::/"
    assert "/sys/fs: No such file" in ran.log
    assert " - cgroup" not in ran.log


@pytest.mark.parametrize("delay_seconds", [0.0, 0.1, 0.3, 0.6, 1.2])
def test_a_killed_worker_leaves_no_process_and_a_sweep_takes_its_groups(
    world: World, group: Path, delay_seconds: float
) -> None:
    reader, writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            (group / "cgroup.procs").write_text("0")
            world.run(world.shell(ENDLESS), during=lambda _: os.write(writer, b"x"))
        except HostError:
            pass
        finally:
            os._exit(0)
    assert os.read(reader, 1) == b"x"
    time.sleep(delay_seconds)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    deadline = time.monotonic() + 30
    while cgroups.folder_processes([group]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert cgroups.folder_processes([group]) == []
    while not sweep(world.run_folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(world.run_folder.iterdir()) == []
    assert [path.name for path in group.iterdir() if path.is_dir() and path.name != cgroups.WORKERS_LEAF] == []
