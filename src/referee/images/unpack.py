"""Laying a checked layer out as a folder in the form that overlayfs reads.

Why our own code, measured on an image of 155 MB and 3,700 files (two cores, otherwise idle): this takes 1.2 s,
`umoci raw unpack` 1.1 s, skopeo into containers-storage 1.9 s; most of it is inflating. umoci lays out whole images
only, so nothing is shared between two images; containers-storage keys a layer by all layers below it, creates device
nodes, keeps file capabilities, and knows neither a cap on its size nor a lock that an attempt could hold. Here every
path has already passed `Layer`'s rules, and every system call below names one component relative to an open folder
that was itself opened without following links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from referee.errors import HostError, ImageError
from referee.images.layer import Action, Layer, LayerEntry
from referee.images.model import NoRoomError

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FOLDERS = 64
_FULL = {errno.ENOSPC, errno.EDQUOT}


def unpack(layer: Layer, folder: Path) -> None:
    """Write the layer's entries below `folder`, which exists and is empty.

    Ownership, modes (without setuid and setgid on files) and times are the layer's; extended attributes, device nodes
    and FIFOs are left out; whiteouts become character devices 0/0 and `trusted.overlay.opaque`.

    Raises:
        ImageError: the layer cannot be laid out.
        NoRoomError: the disk is full.
        HostError: this machine's file system cannot hold a layer.
    """
    try:
        with contextlib.closing(_Folders(folder)) as folders:
            os.fchmod(folders.open(b""), 0o755)
            _unpack(layer, folders)
    except OSError as error:
        raise _explained(error, folder) from error


def _explained(error: OSError, folder: Path) -> ImageError | HostError:
    if error.errno in _FULL:
        return NoRoomError(
            f"The disk is full: an image could not be unpacked into {folder.parent}.",
            hint="Make room, or place the node's folder on a larger disk.",
        )
    if error.errno == errno.EMLINK:  # the one thing that a layer can provoke although it passed the rules
        return ImageError("The image has too many hard links to one file.", hint="Build the image without them.")
    return HostError(
        f"An image could not be unpacked into {folder.parent}: {error.strerror}.",
        hint="Use a local file system (ext4, xfs, btrfs) that holds device numbers and trusted attributes, as root.",
    )


def _unpack(layer: Layer, folders: _Folders) -> None:
    late: dict[bytes, LayerEntry] = {}
    for entry in layer:
        if entry.action is Action.NOTHING:
            continue
        if entry.action is Action.FOLDER:
            folders.make(entry.path)
            late[entry.path] = entry  # its mode and time are set when nothing more is written into it
        elif entry.action is Action.OPAQUE:
            folders.make(entry.path)
            folders.hide_below(entry.path)
        else:
            parent, _, name = entry.path.rpartition(b"/")
            _place(layer, entry, folders, folders.open(parent), name)
    for path, entry in late.items():
        fd = folders.open(path)
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        os.utime(fd, (entry.mtime, entry.mtime))


def _place(layer: Layer, entry: LayerEntry, folders: _Folders, parent: int, name: bytes) -> None:
    if entry.action is Action.WHITEOUT:
        _whiteout(folders, entry.path, parent, name)
        return
    if entry.action is Action.HARD_LINK:
        source, _, source_name = entry.target.rpartition(b"/")
        with folders.held(entry.path.rpartition(b"/")[0]) as target_fd, folders.held(source) as source_fd:
            _remove(target_fd, name)
            os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        return
    if entry.action is Action.SYMLINK:
        _remove(parent, name)
        os.symlink(entry.target, name, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        return
    try:
        fd = os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent)
    except FileExistsError:
        _remove(parent, name)
        fd = os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent)
    try:
        for piece in layer.content():
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        os.utime(fd, (entry.mtime, entry.mtime))
    finally:
        os.close(fd)


def _whiteout(folders: _Folders, path: bytes, parent: int, name: bytes) -> None:
    """Hide what lower layers have at `name`; what this layer itself has there stays (layer.md, "Whiteouts")."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        return
    if stat.S_ISDIR(found.st_mode):
        folders.hide_below(path)


def _remove(parent: int, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


class _Folders:
    """Folders of the tree by path, the latest ones kept open. Every one was opened without following a link."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, _FOLDER_FLAGS)
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def open(self, path: bytes) -> int:
        """A descriptor of the folder at `path`, made if it is not there; valid until the next call."""
        if not path:
            return self._root
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        parent, _, name = path.rpartition(b"/")
        parent_fd = self.open(parent)
        try:
            fd = os.open(name, _FOLDER_FLAGS, dir_fd=parent_fd)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
            fd = os.open(name, _FOLDER_FLAGS, dir_fd=parent_fd)
        except NotADirectoryError:
            # The layer's rules leave one case: a whiteout of this layer. The new folder then hides the lower one.
            if not stat.S_ISCHR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
                raise
            os.unlink(name, dir_fd=parent_fd)
            os.mkdir(name, 0o755, dir_fd=parent_fd)
            fd = os.open(name, _FOLDER_FLAGS, dir_fd=parent_fd)
            _set_opaque(fd)
        while len(self._open) >= _OPEN_FOLDERS:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = fd
        return fd

    def make(self, path: bytes) -> None:
        """Make the folder at `path`, if it is not there."""
        self.open(path)

    def hide_below(self, path: bytes) -> None:
        """Let nothing of lower layers be seen in the folder at `path`."""
        _set_opaque(self.open(path))

    @contextlib.contextmanager
    def held(self, path: bytes) -> Iterator[int]:
        """A descriptor of the folder at `path` that stays valid beside another one."""
        fd = os.dup(self.open(path))
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close every descriptor."""
        for fd in (self._root, *self._open.values()):
            os.close(fd)
        self._open.clear()


def _set_opaque(fd: int) -> None:
    os.setxattr(fd, "trusted.overlay.opaque", b"y")
