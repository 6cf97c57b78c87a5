"""What submissions may try, and what is true afterwards, judged from outside wherever it can be."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from referee.challenge import Contract
from referee.sandbox.conformance import Listeners
from sandbox_world import MIB, Ran, World, disk_node, setuid_copy

pytestmark = pytest.mark.containers

STRICT = Contract()
LOOSE = Contract(user="image", rootfs="scratch", tmp_exec=True)
CONTRACTS = {"strict": STRICT, "loose": LOOSE}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@dataclass(frozen=True)
class Attack:
    """A shell script that is run inside, and what must be true of the run."""

    name: str
    script: str
    held: Callable[[Ran], bool]
    limits: dict[str, Any] = field(default_factory=dict)


ENDLESS = (
    "trap '' TERM INT HUP; (setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &); while :; do sleep 1; done"
)
BOMB = "b() { b | b & }; b; sleep 5"

RESOURCES = [
    Attack("a forged out of memory", "exit 137", lambda r: r.exit_status == 137 and r.oom_kills == 0),
    Attack(
        "a child that kills itself", "sh -c 'kill -9 $$'; exit $?", lambda r: r.exit_status == 137 and r.oom_kills == 0
    ),
    Attack("the first process kills itself", "kill -9 $$; exit 5", lambda r: r.exit_status == 5),
    Attack(
        "files in memory beyond the limit",
        "dd if=/dev/zero of=/tmp/fill bs=1M count=200",
        lambda r: r.oom_kills > 0 and r.peak_memory_bytes <= 32 * MIB,
        {"memory": 32 * MIB, "scratch": 256 * MIB},
    ),
    Attack("a fork bomb", BOMB, lambda r: r.pids_refused > 0 and r.pids_peak <= 32, {"pids": 32}),
    Attack(
        "daemons that ignore signals",
        ENDLESS,
        lambda r: r.ended_by == "wall_time" and r.wall_seconds < 0.5 + 0.5,
        {"wall_time": timedelta(seconds=0.5)},
    ),
    Attack("a daemon that outlives its parent", "setsid sleep 1000 & exit 0", lambda r: r.exit_status == 0),
    Attack(
        "stopping everybody",
        "kill -STOP -1; kill -STOP 0; kill -STOP 1; sleep 1000",
        lambda r: r.ended_by == "wall_time",
        {"wall_time": timedelta(seconds=0.5)},
    ),
    Attack(
        "closed descriptors",
        "exec 0<&- 1>&- 2>&-; sleep 0.2; echo ok > /output/submission.csv",
        lambda r: r.exit_status == 0 and r.content == b"ok\n",
    ),
    Attack(
        "filling the output",
        "dd if=/dev/zero of=/output/submission.csv bs=1M count=100",
        lambda r: "No space left" in r.log and r.output_bytes <= 4 * MIB,
    ),
    Attack(
        "filling the output's inodes",
        "i=0; while touch /output/$i; do i=$((i+1)); done",
        lambda r: "No space left" in r.log and r.output_files == 64,
    ),
    Attack(
        "deep folders in the output",
        "cd /output; while mkdir d && cd d; do :; done",
        lambda r: r.output_files == 64,
    ),
    Attack(
        "a sparse giant",
        "dd if=/dev/zero of=/output/submission.csv bs=1 count=1 seek=1099511627776",
        lambda r: r.refusal in {"missing", "too_large"} or r.content == b"",
    ),
    Attack("a flooded log", "yes", lambda r: r.ended_by == "log_limit" and len(r.log) == 1000, {"log": 1000}),
    Attack(
        "one endless line of NULs", "cat /dev/zero", lambda r: r.ended_by == "log_limit" and len(r.log) == 1000,
        {"log": 1000},
    ),
    Attack(
        "a slow flood is only cut",
        "dd if=/dev/zero bs=1M count=8 2>/dev/null; exit 4",
        lambda r: r.exit_status == 4 and len(r.log) == 1000 and r.log_bytes == 8 * MIB,
        {"log": 1000},
    ),
    Attack(
        "out of the kernel's order of killing",
        "echo -1000 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj",
        lambda r: r.log.strip().endswith("1000") and not r.log.strip().endswith("-1000"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("attack", RESOURCES, ids=lambda attack: attack.name)
def test_limits_and_verdicts_hold(world: World, attack: Attack) -> None:
    for name in ("yes", "setsid", "timeout"):
        (world.layer / "bin" / name).symlink_to("busybox")
    ran = world.run(world.shell(attack.script), **attack.limits)
    assert ran.started
    assert attack.held(ran), (ran.outcome, ran.log[-500:], ran.refusal)


def test_a_memory_bomb_is_told_by_the_kernel_s_counter(world: World) -> None:
    ran = world.run(world.python("x = []\nwhile True: x.append(bytearray(b'x' * (1 << 22)))"), memory=48 * MIB)
    assert ran.signal == signal.SIGKILL
    assert ran.oom_kills >= 1
    assert ran.peak_memory_bytes <= 48 * MIB


def test_a_writable_root_counts_as_memory(world: World) -> None:
    image = world.shell("dd if=/dev/zero of=/fill bs=1M count=200")
    ran = world.run(image, contract=LOOSE, memory=32 * MIB, scratch=256 * MIB)
    assert ran.oom_kills > 0
    assert ran.peak_memory_bytes <= 32 * MIB


LEFT = {
    "a symbolic link": ("ln -s /etc/passwd /output/submission.csv", "linked"),
    "a symbolic link to a neighbour": ("echo a > /output/x; ln -s x /output/submission.csv", "linked"),
    "a dangling link": ("ln -s nowhere /output/submission.csv", "linked"),
    "a hard link": ("echo a > /output/x; ln /output/x /output/submission.csv", "linked"),
    "a fifo": ("mkfifo /output/submission.csv", "not_a_file"),
    "a folder": ("mkdir /output/submission.csv", "not_a_file"),
    "nothing": ("true", "missing"),
    "a socket": ("nc -lU /output/submission.csv & sleep 0.3", "missing"),
    "another name": ("echo a > '/output/submission.csv '", "missing"),
    "odd names": ("touch /output/-rf \"/output/a\nb\" /output/$(printf '\\377')", "missing"),
    "a file nobody may read": ("echo a > /output/submission.csv; chmod 0 /output/submission.csv", None),
    "a closed folder": ("echo a > /output/submission.csv; chmod 0 /output", None),
}


@pytest.mark.parametrize("name", LEFT)
def test_outputs_are_inert(world: World, name: str) -> None:
    (world.layer / "bin/chmod").symlink_to("busybox")
    script, refusal = LEFT[name]
    ran = world.run(world.shell(script))
    assert ran.refusal == refusal, ran.log
    assert ran.content == (b"a\n" if refusal is None else None)


def test_a_file_beyond_the_agreed_size_is_refused(world: World) -> None:
    def held(ran: Ran) -> bool:
        return ran.refusal == "too_large" and ran.content is None

    sparse = world.python("open('/output/submission.csv', 'wb').truncate(5 << 20)")
    assert held(world.run(sparse))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_no_connection_reaches_the_host(world: World, contract: str) -> None:
    # 169.254.169.254 or a name server would be outside the machine with the defence off: only loopback is tried.
    listeners = Listeners()
    try:
        targets = listeners.open()
        port = targets["tcp"][2][1]
        program = f"""
import socket
name = "\\0" + {targets["abstract unix"][2]!r}
for family, address in ((2, ("127.0.0.1", {port})), (2, ("127.0.1.1", {port})), (10, ("::1", {port})), (1, name)):
    s = socket.socket(family); s.settimeout(1)
    try: s.connect(address); print("reached", address)
    except OSError as e: print(e.errno)
"""
        ran = world.run(world.python(program), contract=CONTRACTS[contract])
        assert "reached" not in ran.log
        assert len(ran.log.split()) == 4
        assert listeners.reached == 0
    finally:
        listeners.close()


@pytest.mark.parametrize("contract", CONTRACTS)
def test_set_user_id_programs_and_device_nodes_of_an_image_do_nothing(world: World, contract: str) -> None:
    setuid_copy("/usr/bin/id", world.layer / "bin/rooted")
    disk_node(world.layer / "bin/disk")
    program = """
import os, subprocess
print(subprocess.run(["/bin/rooted", "-u"], capture_output=True, text=True).stdout.strip())
print(oct(os.lstat("/bin/rooted").st_mode), oct(os.lstat("/bin/disk").st_mode))
try: print(os.read(os.open("/bin/disk", os.O_RDONLY), 1))
except OSError as error: print(error.strerror)
"""
    ran = world.run(world.python(program, user="1234"), contract=CONTRACTS[contract])
    # The set-user-id bit and the node were there to be used.
    uid = "1234" if contract == "loose" else "1000"
    assert ran.log.splitlines()[:2] == [uid, "0o104755 0o60666"]
    assert ran.log.splitlines()[2] in {"Permission denied", "Operation not permitted"}


def test_no_more_files_can_be_open_than_allowed(world: World) -> None:
    program = """
import resource
try: resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
except (OSError, ValueError): print("refused")
held = []
try:
    while True: held.append(open("/dev/null"))
except OSError as error: print(error.errno, len(held) < 256)
"""
    assert world.run(world.python(program)).log.split() == ["refused", "24", "True"]


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /",
        "mount -o remount,exec /output",
        "umount /data",
        "unshare -U true",
        "unshare -n true",
        "unshare -m true",
        "chroot / true",
        "mknod /tmp/node b 8 0",
        # Opened for writing, never written: with the defence off the host's own settings would be hit.
        ": >> /proc/sys/kernel/core_pattern",
        ": >> /proc/sys/kernel/hostname",
        ": >> /proc/sys/vm/drop_caches",
        ": >> /proc/sysrq-trigger",
        "echo x > /data/a.mp4",
        "rm /data/a.mp4",
        "ln /data/a.mp4 /output/a",
        "cat /proc/1/mem",
        "dmesg",
        "renice -n -5 1",
        "nsenter -t 1 -m true",
        "ip link set lo down",
        "ip link add dummy0 type dummy",
        "sysctl -w net.ipv4.ip_forward=1",
    ],
)
def test_refused_even_to_the_image_s_root(world: World, script: str, contract: str) -> None:
    names = [
        "mount",
        "umount",
        "unshare",
        "chroot",
        "mknod",
        "hostname",
        "rm",
        "dmesg",
        "renice",
        "nsenter",
        "ip",
        "sysctl",
    ]
    for name in names:
        if not (world.layer / "bin" / name).exists():
            (world.layer / "bin" / name).symlink_to("busybox")
    before = Path("/proc/sys/kernel/core_pattern").read_text(), os.uname().nodename
    ran = world.run(world.shell(f"{script} && echo ESCAPED"), contract=CONTRACTS[contract])
    assert ran.started
    assert "ESCAPED" not in ran.log
    assert (Path("/proc/sys/kernel/core_pattern").read_text(), os.uname().nodename) == before
    assert (world.data / "a.mp4").read_text() == "a.mp4"


def test_a_masked_file_reads_as_empty(world: World) -> None:
    names = ["kcore", "keys", "key-users", "locks", "loadavg", "kallsyms", "cmdline", "partitions", "interrupts"]
    there = [f"/proc/{name}" for name in names if Path("/proc", name).exists()]
    assert len(there) > 4
    assert world.run(world.shell(f"cat {' '.join(there)}")).log == ""


def test_locks_on_the_data_tell_a_neighbour_nothing(world: World) -> None:
    program = "import fcntl\nf = open('/data/a.mp4')\nfcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nprint('locked')"
    with (world.data / "a.mp4").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert world.run(world.python(program)).log == "locked\n"


def test_the_next_submission_finds_nothing_of_the_last(world: World) -> None:
    leave = "for d in /tmp /dev/shm /output /; do echo trace > $d/trace; done; ls /tmp /dev/shm /output"
    look = "ls -A /tmp /dev/shm /output; ls /trace; ls -A /dev/mqueue"
    assert world.run(world.shell(leave), contract=LOOSE).log.count("trace") >= 3
    assert "trace\n" not in world.run(world.shell(look), contract=LOOSE).log.replace("ls: /trace", "")


@dataclass(frozen=True)
class BadImage:
    """Something wrong with an image: how it is made wrong, and a word of the reason."""

    name: str
    spoil: Callable[[World], None]
    reason: str
    config: dict[str, Any] = field(default_factory=dict)


def link(path: str, target: str) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        place = world.layer / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            place.rename(world.layer / "aside")
        place.symlink_to(target)

    return spoil


def keep(_: World) -> None:
    pass


def write(path: str, content: bytes, mode: int = 0o755) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        (world.layer / path).write_bytes(content)
        (world.layer / path).chmod(mode)

    return spoil


BAD_IMAGES = [
    BadImage("data is a link to /proc", link("data", "/proc"), "/data in the image is a symbolic link"),
    BadImage("data is a link to the host's root", link("data", "../../../.."), "symbolic link"),
    BadImage("output is a link", link("output", "/etc"), "/output in the image is a symbolic link"),
    BadImage("tmp is a link", link("tmp", "/data"), "/tmp in the image is a symbolic link"),
    BadImage("proc is a link", link("proc", "/tmp"), "/proc in the image is a symbolic link"),
    BadImage("dev is a link", link("dev", "/tmp"), "/dev in the image is a symbolic link"),
    BadImage("etc is a link", link("etc", "/tmp"), "/etc in the image is a symbolic link"),
    BadImage("sys is a link below", link("sys/devices", "/tmp"), "symbolic link"),
    BadImage("data is a file", write("data", b""), "not a folder"),
    BadImage("no entrypoint", keep, "neither an entrypoint nor a command", {"arguments": ()}),
    BadImage("no such program", keep, "does not exist", {"arguments": ("/bin/nothing",)}),
    BadImage("no such program on the path", keep, "does not exist", {"arguments": ("nothing",)}),
    BadImage("not executable", write("bin/x", b"#!/bin/sh\n", 0o644), "not an executable", {"arguments": ("/bin/x",)}),
    BadImage("not a program", write("bin/x", b"garbage"), "neither a Linux program", {"arguments": ("/bin/x",)}),
    BadImage("no interpreter", write("bin/x", b"#!/bin/no\n"), "needs /bin/no", {"arguments": ("/bin/x",)}),
    BadImage("a loop of scripts", write("bin/x", b"#!/bin/x\n"), "too many scripts", {"arguments": ("/bin/x",)}),
    BadImage(
        "a program of another machine", write("bin/x", b"\x7fELF\x02\x01\x01" + b"\0" * 11 + b"\xf3" + b"\0" * 60),
        "is not a program for", {"arguments": ("/bin/x",)},
    ),
    BadImage(
        "a program outside by a link", link("bin/x", "../../../../../../../../usr/bin/env"), "does not exist",
        {"arguments": ("/bin/x",)},
    ),
    BadImage("a working folder in /proc", keep, "/proc, /sys or /dev", {"working_folder": "/proc/self/fd/7"}),
    BadImage("a hidden working folder in /proc", keep, "/proc, /sys or /dev", {"working_folder": "/x/../proc/self"}),
    BadImage("a working folder by a link", link("work", "/proc/self/fd/8"), "symbolic", {"working_folder": "/work"}),
    BadImage("a working folder that is a file", keep, "not a folder", {"working_folder": "/bin/busybox"}),
    BadImage("a relative working folder", keep, "absolute", {"working_folder": "proc/self/fd/7"}),
    BadImage("an unknown user", keep, "not in its /etc/passwd", {"user": "mallory"}),
    BadImage("an unknown group", keep, "not in its /etc/group", {"user": "0:mallory"}),
    BadImage("a user beyond the map", keep, "above 65535", {"user": "65536"}),
    BadImage("accounts by a link", link("etc/passwd2", "/etc/passwd"), "not in its", {"user": "nobody"}),
    BadImage("an odd environment", keep, "NAME=VALUE", {"environment": ("nonsense",)}),
    BadImage("a NUL in the command", keep, "NUL", {"arguments": ("/bin/sh", "a\0b")}),
    BadImage("another architecture", keep, "not a program for s390x", {"architecture": "s390x"}),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_IMAGES, ids=lambda case: case.name)
def test_a_hostile_image_is_refused_before_anything_starts(world: World, case: BadImage) -> None:
    case.spoil(world)
    config = {"arguments": ("/bin/sh", "-c", "echo started"), **case.config}
    ran = world.run(world.image(*config.pop("arguments"), **config), contract=LOOSE)
    assert not ran.started
    assert ran.bad_image
    assert case.reason in ran.start_error
    assert ran.log == ""


def test_accounts_are_not_read_through_a_link_to_the_host(world: World) -> None:
    (world.layer / "etc/passwd").unlink()
    (world.layer / "etc/passwd").symlink_to("/etc/passwd")
    ran = world.run(world.shell("true", user="nobody"), contract=LOOSE)
    assert ran.bad_image


def test_files_of_ours_replace_links_of_the_image(world: World) -> None:
    for name in ("hosts", "resolv.conf", "hostname"):
        (world.layer / "etc" / name).symlink_to("/etc/passwd")
    ran = world.run(world.shell("cat /etc/hosts; ls -l /etc; echo >> /etc/hosts"), contract=LOOSE)
    assert "127.0.0.1\tlocalhost" in ran.log
    assert " -> /etc/passwd" not in ran.log
    assert "sandbox" not in Path("/etc/hosts").read_text()


def test_a_bundle_grants_nothing_by_a_name_of_the_image(world: World) -> None:
    """The image's text lands in JSON values only."""
    evil = '", "capabilities": {"bounding": ["CAP_SYS_ADMIN"]}, "x": "'
    ran = world.run(world.shell("cat /proc/self/status", environment=(f"E={evil}",)))
    assert "CapBnd:\t0000000000000000" in ran.log


def test_the_machine_of_a_strange_process_sees_no_new_file(world: World) -> None:
    """What a run leaves on disk is what was there before it: a snapshot of names, modes and sizes."""

    def snapshot() -> set[tuple[str, int, int]]:
        command = ["find", str(world.folder), "-printf", "%p %m %s\n"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {tuple(line.rsplit(" ", 2)) for line in text.splitlines()}  # type: ignore[misc]

    before = snapshot()
    script = "echo x > /bin/x; echo x > /tmp/x; echo x > /output/x; chmod 777 /bin /etc; mkdir /deep; touch /data/x"
    (world.layer / "bin/chmod").symlink_to("busybox")
    before = snapshot()
    assert world.run(world.shell(script), contract=LOOSE).started
    assert snapshot() == before
    assert stat.S_IMODE((world.layer / "bin").stat().st_mode) != 0o777
