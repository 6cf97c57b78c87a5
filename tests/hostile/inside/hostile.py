"""For attack programs: raw system calls, and words for what they saw. Runs inside the container."""

import ctypes
import errno
import os

LEVEL = os.environ.get("LEVEL", "runc")
# What the level's runtime is granted above the limits: a bomb must be larger than that too.
EXTRA_MIB, EXTRA_PIDS = int(os.environ.get("EXTRA_MIB", "0")), int(os.environ.get("EXTRA_PIDS", "0"))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h
_X86 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "clone": 56, "msgget": 68, "ptrace": 101, "syslog": 103,
    "personality": 135, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169,
    "sethostname": 170, "init_module": 175, "quotactl": 179, "io_setup": 206, "timer_create": 222, "mq_open": 240,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "inotify_init1": 294, "unshare": 272,
    "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "bpf": 321, "userfaultfd": 323, "mknodat": 259, "syncfs": 306, "sync": 162,
}  # fmt: skip
_GENERIC = {
    "shmget": 194, "shmat": 196, "shmctl": 195, "clone": 220, "msgget": 186, "ptrace": 117, "syslog": 116,
    "personality": 92, "pivot_root": 41, "chroot": 51, "mount": 40, "umount2": 39, "swapon": 224, "reboot": 142,
    "sethostname": 161, "init_module": 105, "quotactl": 60, "io_setup": 0, "timer_create": 107, "mq_open": 180,
    "kexec_load": 104, "add_key": 217, "request_key": 218, "keyctl": 219, "inotify_init1": 26, "unshare": 97,
    "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
    "process_vm_readv": 270, "bpf": 280, "userfaultfd": 282, "mknodat": 33, "syncfs": 267, "sync": 81,
}  # fmt: skip
NUMBERS = (_X86 if os.uname().machine == "x86_64" else _GENERIC) | {
    "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "clone3": 435, "pidfd_open": 434,
    "pidfd_getfd": 438, "memfd_secret": 447, "mount_setattr": 442,
}  # fmt: skip


def say(*words):
    """Write a line to the log at once."""
    print(*words, flush=True)


def escaped(*words):
    """Something worked that must not: this word in a log is an escape, whoever wrote it."""
    say("ESCAPED", *words)


def escaped_at_runc(*words):
    """Something worked that must not where the host's kernel answers. At gVisor its own kernel did: `attack.toml` says
    why nothing of the host is reached."""
    if LEVEL == "gvisor":
        say("of the sentry's own:", *words)
    else:
        escaped(*words)


def raw(name, *arguments):
    """The result of a system call and the name of its error (or an empty string)."""
    values = [
        ctypes.c_char_p(a) if isinstance(a, bytes) else a if not isinstance(a, int) else ctypes.c_long(a)
        for a in arguments
    ]
    result = _libc.syscall(ctypes.c_long(NUMBERS[name]), *values)
    return result, "" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def must_fail(name, *arguments):
    """Make a system call that must not work; returns the name of its error."""
    result, error = raw(name, *arguments)
    if not error:
        escaped(name, "returned", result)
    say(name, error or "ok")
    return error
