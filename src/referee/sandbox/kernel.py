"""The system calls that Python has no words for. Each raises `OSError` with the kernel's own reason."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# include/uapi/asm-generic/unistd.h: since number 424 every architecture shares these.
_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442

_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = 0x80000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_VM = 0x100
_SLEEPER_STACK_BYTES = 65536
_PR_SET_PDEATHSIG = 1

# linux/mount.h: flags of mount(2).
RDONLY, NOSUID, NODEV, NOEXEC, NOSYMFOLLOW, NOATIME = 1, 2, 4, 8, 256, 1024
REMOUNT, BIND, RECURSIVE, PRIVATE, SLAVE = 32, 4096, 16384, 1 << 18, 1 << 19
DETACH = 2

# linux/mount.h: attributes of mount_setattr(2).
ATTRIBUTE_RDONLY, ATTRIBUTE_NOSUID, ATTRIBUTE_NODEV, ATTRIBUTE_IDMAP = 1, 2, 4, 0x100000

# linux/openat2.h
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16

# linux/sched.h
NEW_MOUNTS, NEW_PIDS, NEW_USERS, NEW_NETWORK = 0x00020000, 0x20000000, 0x10000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _path(path: str | os.PathLike[str]) -> ctypes.c_char_p:
    return ctypes.c_char_p(os.fsencode(path))


def mount(
    source: str | os.PathLike[str], target: str | os.PathLike[str], kind: str | None, flags: int, options: str = ""
) -> None:
    """mount(2)."""
    data = ctypes.c_char_p(options.encode()) if options else None
    name = ctypes.c_char_p(kind.encode()) if kind else None
    _check(_libc.mount(_path(source), _path(target), name, ctypes.c_ulong(flags), data), f"mount {kind} on {target}")


def unmount(target: str | os.PathLike[str], flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_path(target), flags), f"unmount {target}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def become_subreaper() -> None:
    """Orphans among our descendants become our children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become the reaper of orphans")


def die_with_parent() -> None:
    """The kernel sends SIGKILL to this process when the thread that made it ends (prctl(2), PR_SET_PDEATHSIG)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "be ended with the parent")


def attach_clone(source: str | os.PathLike[str], target: str | os.PathLike[str], attributes: int, users: int) -> None:
    """Bind `source` to `target` with mount attributes; `users` is the descriptor of a user namespace to map ids by.

    See open_tree(2), mount_setattr(2), move_mount(2). Needs Linux 5.12, and 5.19 for an overlay over such a mount.
    """
    here = ctypes.c_int(-100)  # AT_FDCWD
    tree = _check(
        _libc.syscall(_OPEN_TREE, here, _path(source), ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)),
        f"clone the mount of {source}",
    )
    try:
        wanted = ctypes.create_string_buffer(struct.pack("QQQQ", attributes | ATTRIBUTE_IDMAP, 0, 0, users), 32)
        empty = ctypes.c_char_p(b"")
        _check(
            _libc.syscall(_MOUNT_SETATTR, tree, empty, ctypes.c_uint(_AT_EMPTY_PATH), wanted, ctypes.c_size_t(32)),
            "map the ids of a mount",
        )
        _check(
            _libc.syscall(_MOVE_MOUNT, tree, empty, here, _path(target), ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)),
            f"attach a mount at {target}",
        )
    finally:
        os.close(tree)


@contextmanager
def sleeper(namespaces: int) -> Iterator[int]:
    """The process id of a child that sleeps in new `namespaces` until this context is left.

    It is cloned into the C library's pause(3) on a stack of its own, sharing our memory: a fork would copy the page
    tables of the whole worker (milliseconds), only to throw them away. It runs no code but that one system call, and
    takes no signal but SIGKILL, so that it cannot touch what it shares.
    """
    stack = ctypes.create_string_buffer(_SLEEPER_STACK_BYTES)
    top = (ctypes.addressof(stack) + _SLEEPER_STACK_BYTES) & ~15
    flags = ctypes.c_int(_CLONE_VM | namespaces | signal.SIGCHLD)
    pause = ctypes.cast(_libc.pause, ctypes.c_void_p)
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        child = _check(_libc.clone(pause, ctypes.c_void_p(top), flags, None), "clone a process into new namespaces")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        del stack


def open_beneath(folder: int, path: str | bytes, flags: int, resolve: int) -> int:
    """openat2(2): open `path` relative to the descriptor `folder`, with `resolve` saying what the way may not hold."""
    how = ctypes.create_string_buffer(struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve), 24)
    result = _libc.syscall(_OPENAT2, ctypes.c_int(folder), _path(os.fsdecode(path)), how, ctypes.c_size_t(24))
    return _check(result, "open")
