"""Try, from inside a sandbox, what must not work; print what happened as JSON. Judged outside, by `proof`."""

import ctypes
import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE = os.uname().machine
_CALLS = {  # system call numbers by architecture: asm/unistd_64.h, asm-generic/unistd.h
    "x86_64": {"keyctl": 250, "add_key": 248, "ptrace": 101, "unshare": 272, "mount": 165, "bpf": 321, "setns": 308,
               "perf_event_open": 298, "userfaultfd": 323, "process_vm_readv": 310, "name_to_handle_at": 303},
    "aarch64": {"keyctl": 219, "add_key": 217, "ptrace": 117, "unshare": 97, "mount": 40, "bpf": 280, "setns": 268,
                "perf_event_open": 241, "userfaultfd": 282, "process_vm_readv": 270, "name_to_handle_at": 264},
}[_MACHINE] | {"io_uring_setup": 425, "clone3": 435, "fsopen": 430, "open_tree": 428, "mount_setattr": 442}  # fmt: skip


def attempt(work: Callable[[], object]) -> str:
    """The name of the error that `work` ends in, or `ok`."""
    try:
        work()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error)) if error.errno else type(error).__name__
    return "ok"


def call(name: str, *arguments: int) -> str:
    """What a system call answers, made in a child, which it may change for good if it works."""
    child = os.fork()
    if child == 0:
        ctypes.set_errno(0)
        result = _libc.syscall(ctypes.c_long(_CALLS[name]), *[ctypes.c_long(a) for a in arguments])
        os._exit(0 if result >= 0 else min(ctypes.get_errno(), 255))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "ok" if status == 0 else errno.errorcode.get(status, f"ended with {status}")


def open_socket(family: int, kind: int, protocol: int = 0) -> None:
    socket.socket(family, kind, protocol).close()


def make(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def sockets(targets: dict[str, Any]) -> dict[str, Any]:
    def reach(family: int, kind: int, address: Any) -> None:
        with socket.socket(family, kind) as s:
            s.settimeout(1)
            s.connect(address)
            s.send(b"probe")

    families = {}
    for family in range(46):
        families[family] = attempt(partial(open_socket, family, socket.SOCK_STREAM))
    kinds = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "raw": socket.SOCK_RAW}
    reached = {}
    for name, (family, kind, address) in targets.items():
        where = tuple(address) if isinstance(address, list) else "\0" + address
        reached[name] = attempt(partial(reach, family, kinds[kind], where))
    with open("/proc/net/dev") as file:
        interfaces = [line.split(":")[0].strip() for line in file if ":" in line]
    families_open = sorted(f for f, result in families.items() if result == "ok")
    # Some families refuse streams though they exist: try datagrams and raw sockets of all others too.
    for family in sorted(set(range(46)) - {1, 2, 10}):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            if attempt(partial(open_socket, family, kind)) == "ok":
                families_open.append(family)
    raw = attempt(partial(open_socket, socket.AF_INET, socket.SOCK_RAW, 1))
    return {"families": sorted(set(families_open)), "reached": reached, "interfaces": interfaces, "raw": raw}


def namespaces() -> dict[str, Any]:
    flags = {"user": 0x10000000, "net": 0x40000000, "mount": 0x20000, "pid": 0x20000000}
    unshared = {name: call("unshare", flag) for name, flag in flags.items()}
    cloned = call_clone(0x10000000)
    return {"unshare": unshared, "clone": cloned, "clone3": call("clone3", 0, 0)}


def call_clone(flags: int) -> str:
    number = {"x86_64": 56, "aarch64": 220}[_MACHINE]
    ctypes.set_errno(0)
    child = _libc.syscall(ctypes.c_long(number), ctypes.c_long(flags | 17), 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
        return "ok"
    return errno.errorcode.get(ctypes.get_errno(), "?")


def status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def writes() -> dict[str, str]:
    places = """/probe-write /etc/probe-write /data/probe-write /sys/probe-write /proc/probe-write /bin/probe-write
        /probe/open/file /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/panic_on_oom"""
    paths = places.split()
    found = {path: attempt(partial(make, path)) for path in paths}
    found["remove data"] = attempt(lambda: os.unlink("/data/seen"))
    found["link data"] = attempt(lambda: os.link("/data/seen", "/output/link"))
    return found


def masked() -> dict[str, int]:
    shown = {}
    for name in ("kcore", "keys", "key-users", "loadavg", "locks", "timer_list", "kallsyms", "cmdline", "pressure",
                 "partitions", "diskstats", "interrupts", "vmstat"):  # fmt: skip
        path = "/proc/" + name
        if not os.path.exists(path):
            continue
        try:
            shown[name] = len(os.listdir(path)) if os.path.isdir(path) else len(open(path, "rb").read(64))
        except OSError:
            shown[name] = 0
    return shown


def devices() -> dict[str, Any]:
    found = {}
    for folder, _, names in os.walk("/dev"):
        for name in names:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                found[os.path.join(folder, name)] = "block" if stat.S_ISBLK(mode) else "character"
    return {
        "found": found,
        "image_node": attempt(lambda: os.close(os.open("/probe/device", os.O_RDONLY))),
        "disk_node": attempt(lambda: os.close(os.open("/probe/disk", os.O_RDONLY))),
        "made": attempt(lambda: os.mknod("/tmp/node", stat.S_IFBLK | 0o600, os.makedev(8, 0))),
    }


def main() -> None:
    # Descriptors that were open at the start: those of the listing itself are gone when they are looked at.
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    opened = sorted(os.readlink(link).split(":")[0] for link in links if os.path.lexists(link))
    settings = json.loads(os.environ["PROBE"])
    lock = os.open("/data/seen", os.O_RDONLY)
    mount_list = open("/proc/self/mountinfo").read()
    ids = {kind: open(f"/proc/self/{kind}").read().split() for kind in ("uid_map", "gid_map")}
    helper = subprocess.run(["/probe/setuid-id", "-u"], capture_output=True, text=True, check=False).stdout.strip()
    processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    print(json.dumps({
        "environment": dict(os.environ),
        "sockets": sockets(settings["targets"]),
        "namespaces": namespaces(),
        "status": status(),
        "writes": writes(),
        "masked": masked(),
        "devices": devices(),
        "calls": {name: call(name, 0, 0, 0, 0, 0) for name in _CALLS if name not in {"unshare", "clone3"}},
        "lock": attempt(lambda: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)),
        "mountinfo": mount_list,
        "ids": ids,
        "setuid": helper,
        "processes": processes,
        "parent": os.getppid(),
        "data": sorted(os.listdir("/data")),
        "found": {place: sorted(os.listdir(place)) for place in ("/tmp", "/output", "/dev/shm")},
        "host_name": os.uname().nodename,
        "resolv": open("/etc/resolv.conf").read(),
        "cgroup": open("/proc/self/cgroup").read(),
        "descriptors": opened,
        "threads": threads(),
    }))  # fmt: skip
    for place in ("/tmp", "/output", "/dev/shm"):
        with open(place + "/trace", "w") as file:
            file.write("trace")


def threads() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(1))
    thread.start()
    thread.join()
    return len(seen)


if __name__ == "__main__":
    main()
