"""Mounts of one sandbox, all in the worker's own mount namespace, so that the kernel removes them with the worker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from referee.errors import HostError
from referee.sandbox import kernel

SAFE = kernel.NOSUID | kernel.NODEV

# Without these a layer's own extended attributes could send a lookup elsewhere in the layers.
_OVERLAY_OPTIONS = "redirect_dir=nofollow,metacopy=off,index=off,xino=off"

# mount(2) copies at most one page of options.
_LONGEST_OPTIONS = 4095


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo (proc(5))."""

    target: str
    shared: bool
    kind: str
    source: str
    root: str
    super_options: str


def read_mounts(path: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """The mounts that this process sees, in the order in which they were made."""
    return list(_parse(path.read_text(encoding="utf-8", errors="surrogateescape")))


def _parse(text: str) -> Iterator[Mount]:
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        yield Mount(
            target=_unescape(fields[4]),
            shared=any(option.startswith("shared:") for option in fields[6:]),
            kind=tail[0],
            source=_unescape(tail[1]),
            root=_unescape(fields[3]),
            super_options=tail[2] if len(tail) > 2 else "",
        )


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def mount_over(path: Path, mounts: Sequence[Mount]) -> Mount:
    """The mount that `path` lies on."""
    above = [m for m in mounts if path == Path(m.target) or Path(m.target) in path.parents]
    return max(reversed(above), key=lambda m: len(m.target))


def tmpfs(
    target: Path, size_bytes: int, inodes: int, mode: int, *, owner: int = 0, group: int = 0, flags: int = SAFE
) -> None:
    """A file system in memory. Its pages are charged to the cgroup of whoever writes them first."""
    options = f"size={size_bytes},nr_inodes={inodes},mode={mode:o},uid={owner},gid={group}"
    kernel.mount("tmpfs", target, "tmpfs", flags, options)


def overlay(
    target: Path, lower: Sequence[Path], *, upper: Path | None = None, work: Path | None = None, flags: int = SAFE
) -> None:
    """An overlay of the folders `lower`, topmost first; without `upper` it is read-only.

    Raises:
        HostError: if there are more layers than one mount can name.
    """
    options = f"{_OVERLAY_OPTIONS},lowerdir=" + ":".join(map(str, lower))
    if upper is None:
        flags |= kernel.RDONLY
    else:
        options += f",upperdir={upper},workdir={work}"
    if len(options) > _LONGEST_OPTIONS:
        raise HostError(f"An image of {len(lower)} layers is more than one mount can hold.", hint="Squash the image.")
    kernel.mount("overlay", target, "overlay", flags, options)


def bind(source: Path, target: Path, flags: int) -> None:
    """Show the folder `source` at `target`, with `flags` of its own."""
    kernel.mount(source, target, None, kernel.BIND)
    kernel.mount("none", target, None, kernel.BIND | kernel.REMOUNT | flags)


def mapped(source: Path, target: Path, users: int) -> None:
    """Show `source` read-only at `target` with its owners mapped by the user namespace `users`.

    Raises:
        HostError: if the kernel or the file system cannot do it.
    """
    attributes = kernel.ATTRIBUTE_RDONLY | kernel.ATTRIBUTE_NOSUID | kernel.ATTRIBUTE_NODEV
    try:
        kernel.attach_clone(source, target, attributes, users)
    except OSError as error:
        raise HostError(
            f"The owners of files below {source} cannot be mapped for a sandbox: {error.strerror}.",
            hint="This needs Linux 5.19 or later and a file system with id-mapped mounts (ext4, xfs, btrfs, tmpfs).",
        ) from error


def detach(target: Path) -> None:
    """Take `target` and every mount below it away at once; the kernel frees them when nothing uses them."""
    kernel.unmount(target, kernel.DETACH)


def usage(folder: Path) -> tuple[int, int]:
    """Bytes and inodes in use on the file system of `folder`, as the kernel counts them, without its root inode."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize, max(0, found.f_files - found.f_ffree - 1)


def detach_all(folder: Path) -> None:
    """Take every mount at or below `folder` away, the latest first."""
    for mount in reversed(read_mounts()):
        if Path(mount.target) == folder or folder in Path(mount.target).parents:
            kernel.unmount(mount.target, kernel.DETACH)
