"""The root file system of one sandbox: the image's layers, and on top a skeleton of our own for what is mounted.

What an image says about itself (paths, user, entrypoint) is looked up inside the image only: no way leads through a
symbolic link to the host. The skeleton has a plain folder for every mount point and our own /etc/hosts and
/etc/resolv.conf, so that nothing in the image can redirect a mount.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from referee.challenge.contract import SCRATCH
from referee.images.model import ImageConfig
from referee.sandbox import kernel
from referee.sandbox.cdi import NO_EDITS, Edits
from referee.sandbox.identities import SIZE
from referee.sandbox.policy import UNPRIVILEGED, SandboxPolicy
from referee.sandbox.program import HEAD_BYTES, why_not_executable

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_ETC = {
    "hosts": "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost sandbox\n",
    "resolv.conf": "",
    "hostname": "sandbox\n",
}
_LARGEST_ACCOUNT_FILE = 2**20
_MOST_ID_DIGITS = 20  # Python refuses to read numbers of thousands of digits, which a stranger may have written
_FORBIDDEN_FOLDERS = ("/proc", "/sys", "/dev")


class BadImageError(Exception):
    """The image cannot be run under the contract. The text is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Process:
    """What will be started: everything that the image and the policy together decide."""

    arguments: tuple[str, ...]
    folder: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: tuple[tuple[str, str], ...]


class ImageView:
    """A mounted image, looked at from outside without ever leaving it."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the mount."""
        os.close(self._root)

    def real_path(self, path: str) -> str | None:
        """Where `path` leads inside the image, symbolic links followed within it; `None` if it leads nowhere."""
        found = self._follow(path)
        if found is None:
            return None
        try:
            return self._name_of(found)
        finally:
            os.close(found)

    def _follow(self, path: str) -> int | None:
        within = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS | kernel.RESOLVE_NO_XDEV
        try:
            return kernel.open_beneath(self._root, path, os.O_PATH, within)
        except OSError:
            return None

    def _name_of(self, descriptor: int) -> str:
        here = str(Path(f"/proc/self/fd/{self._root}").readlink())
        there = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        return "/" + str(PurePosixPath(there).relative_to(here)) if there != here else "/"

    def status(self, path: str) -> os.stat_result | None:
        """What lies at `path`, symbolic links followed within the image; `None` if nothing does."""
        found = self._follow(path)
        if found is None:
            return None
        try:
            return os.fstat(found)
        finally:
            os.close(found)

    def folders_to(self, path: str) -> list[os.stat_result]:
        """What is known of `/` and of each folder on the way to `path` that the image has.

        Raises:
            BadImageError: if something on the way is a symbolic link or not a folder.
        """
        found = [os.fstat(self._root)]
        for way in _prefixes(path):
            try:
                descriptor = kernel.open_beneath(
                    self._root, way.lstrip("/"), os.O_PATH | os.O_NOFOLLOW,
                    kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS,
                )  # fmt: skip
            except FileNotFoundError:
                break
            except OSError as error:
                raise BadImageError(f"{way} in the image is a symbolic link, which a mount must not follow.") from error
            status = os.fstat(descriptor)
            os.close(descriptor)
            if stat.S_ISLNK(status.st_mode):
                raise BadImageError(f"{way} in the image is a symbolic link, which a mount must not follow.")
            if not stat.S_ISDIR(status.st_mode):
                raise BadImageError(f"{way} in the image is not a folder, and the contract needs one there.")
            found.append(status)
        return found

    def head(self, path: str) -> bytes | None:
        """The first bytes of the executable file at `path`, links followed within the image; `None` if it is none."""
        within = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS | kernel.RESOLVE_NO_XDEV
        try:
            descriptor = kernel.open_beneath(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, within)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            mode = os.fstat(descriptor).st_mode
            return file.read(HEAD_BYTES) if stat.S_ISREG(mode) and mode & 0o111 else None

    def text(self, path: str) -> str:
        """A small text file of the image; empty if there is none that is a plain file without links on the way."""
        try:
            descriptor = kernel.open_beneath(
                self._root, path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK,
                kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_XDEV,
            )  # fmt: skip
        except OSError:
            return ""
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_ACCOUNT_FILE:
                return ""
            return file.read(_LARGEST_ACCOUNT_FILE).decode("utf-8", errors="replace")


def _prefixes(path: str) -> list[str]:
    pure = PurePosixPath(path)
    return [str(part) for part in (*reversed(pure.parents), pure)][1:]


def plan_process(
    policy: SandboxPolicy, config: ImageConfig, architecture: str, view: ImageView, gpus: Edits = NO_EDITS
) -> Process:
    """What to start, from the image's configuration under the policy, with what its GPUs bring.

    Raises:
        BadImageError: if the image names nothing that can be run.
    """
    uid, gid, groups, home = _user(policy, config, view)
    environment = {"PATH": DEFAULT_PATH}
    for entry in config.environment:
        name, separator, value = entry.partition("=")
        if not separator or not name or "\0" in entry:
            raise BadImageError("The image's environment holds an entry that is not NAME=VALUE.")
        environment[name] = value
    if policy.keep_user:
        environment.setdefault("HOME", home)
    else:
        environment |= {"HOME": SCRATCH, "USER": "sandbox", "LOGNAME": "sandbox"}
    environment |= dict(gpus.environment)
    if gpus.library_folders:
        known = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = ":".join((*((known,) if known else ()), *gpus.library_folders))
    environment |= dict(policy.environment)
    environment |= {
        "REFEREE_DATA": policy.data,
        "REFEREE_OUTPUT": policy.output,
        "REFEREE_GPUS": str(len(policy.gpus)),
        "NVIDIA_VISIBLE_DEVICES": ",".join(policy.gpus) or "void",
    }
    folder = _working_folder(config.working_folder, policy, view)
    arguments = (*config.entrypoint, *config.command)
    _check_program(arguments, folder, environment["PATH"], architecture, view)
    return Process(arguments, folder, uid, gid, groups, tuple(sorted(environment.items())))


def _user(policy: SandboxPolicy, config: ImageConfig, view: ImageView) -> tuple[int, int, tuple[int, ...], str]:
    if not policy.keep_user:
        return UNPRIVILEGED, UNPRIVILEGED, (), SCRATCH
    user, _, group = (config.user or "0").partition(":")
    accounts = [line.split(":") for line in view.text("/etc/passwd").splitlines() if line.count(":") == 6]
    name, home, gid = user, "/", 0
    if user.isascii() and user.isdigit():
        uid = int(user)
        account = next((a for a in accounts if a[2] == str(uid)), None)
    else:
        account = next((a for a in accounts if a[0] == user), None)
        number = None if account is None else _id(account[2])
        if number is None:
            raise BadImageError(f"The image wants to run as the user {user[:64]!r}, who is not in its /etc/passwd.")
        uid = number
    if account is not None:
        name, home = account[0], account[5] if account[5] and "\0" not in account[5] else "/"
        gid = _id(account[3]) or 0
    groups = [line.split(":") for line in view.text("/etc/group").splitlines() if line.count(":") == 3]
    numbered = {g[0]: number for g in groups if (number := _id(g[2])) is not None}
    if group:
        if not (group.isascii() and group.isdigit()) and group not in numbered:
            raise BadImageError(f"The image wants to run as the group {group[:64]!r}, which is not in its /etc/group.")
        gid = numbered[group] if group in numbered else int(group)
    more = {numbered[g[0]] for g in groups if g[0] in numbered and name in g[3].split(",")} - {gid}
    for number in (uid, gid, *more):
        if number >= SIZE:
            raise BadImageError(f"The image's user or group {number} lies above {SIZE - 1}, which no sandbox maps.")
    return uid, gid, tuple(sorted(more))[:32], home


def _id(text: str) -> int | None:
    """The number in a line of an account file; None if there is none, or one that no kernel has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_ID_DIGITS else None


def _working_folder(folder: str, policy: SandboxPolicy, view: ImageView) -> str:
    wanted = os.path.normpath(folder or "/")
    if not wanted.startswith("/") or "\0" in wanted:
        raise BadImageError("The image's working folder is not an absolute path.")
    wanted = "/" + wanted.lstrip("/")
    if wanted in (policy.data, policy.output, SCRATCH):
        return wanted
    found = view.real_path(wanted)
    for path in (wanted, found or "/"):
        if any(PurePosixPath(path).is_relative_to(forbidden) for forbidden in _FORBIDDEN_FOLDERS):
            raise BadImageError("The image's working folder lies in /proc, /sys or /dev.")
    if found is None:
        view.folders_to(wanted)
        return wanted  # it does not exist: the skeleton makes it
    status = view.status(found)
    if status is None or not stat.S_ISDIR(status.st_mode):
        raise BadImageError("The image's working folder is not a folder.")
    return found


def _check_program(arguments: Sequence[str], folder: str, search: str, architecture: str, view: ImageView) -> None:
    if not arguments or not arguments[0]:
        raise BadImageError("The image has neither an entrypoint nor a command.")
    if any("\0" in argument for argument in arguments):
        raise BadImageError("The image's command holds a NUL character.")
    program = arguments[0]
    places = (
        [str(PurePosixPath(folder, program))] if "/" in program else [f"{p}/{program}" for p in search.split(":") if p]
    )
    place = next((place for place in places if view.head(place) is not None), places[0] if places else program)
    reason = why_not_executable(place, architecture, view.head)
    if reason is not None:
        raise BadImageError(f"The image's entrypoint {program[:200]!r} {reason}.")


def place_in_image(view: ImageView, path: str) -> str:
    """Where `path` lies once every link of the image on the way to it is followed; what the image lacks is appended.

    The last part is not followed: it will be covered.
    """
    pure = PurePosixPath(path)
    missing = [pure.name]
    for parent in pure.parents:
        found = view.real_path(str(parent))
        if found is not None:
            return str(PurePosixPath(found, *reversed(missing)))
        missing.append(parent.name)
    return path


def make_folder(path: Path, mode: int) -> None:
    """Make a folder with exactly `mode`, whatever this process's umask is; one that exists is left as it is."""
    try:
        path.mkdir()
    except FileExistsError:
        return
    path.chmod(mode)


def build_skeleton(skeleton: Path, view: ImageView, folders: Sequence[str], base: int) -> None:
    """Fill the empty folder `skeleton` with a plain folder for each of `folders`, and our own files in /etc.

    Folders that the image has too keep the image's owner and mode; new ones belong to the sandbox's root.

    Raises:
        BadImageError: if the image has anything but a folder at one of the places.
    """
    for folder in folders:
        known = view.folders_to(folder)
        place = skeleton
        for number, name in enumerate(("", *PurePosixPath(folder).parts[1:])):
            place = place / name
            place.mkdir(exist_ok=True)
            status = known[number] if number < len(known) else None
            os.chown(place, status.st_uid if status else base, status.st_gid if status else base)
            place.chmod(stat.S_IMODE(status.st_mode) & 0o777 if status else 0o755)
    for name, text in _ETC.items():
        file = skeleton / "etc" / name
        file.write_text(text, encoding="ascii")
        os.chown(file, base, base)
        file.chmod(0o644)


def hide_all_but(hidden: Path, data: Path, items: Sequence[str]) -> None:
    """Fill `hidden` with overlayfs whiteouts for every file of `data` that `items` does not name.

    Sources: Documentation/filesystems/overlayfs.rst (a whiteout is a character device 0/0 in an upper layer).
    """
    kept = set(items)
    ways = {str(parent) for item in items for parent in PurePosixPath(item).parents}

    def walk(folder: Path, prefix: str) -> None:
        for entry in os.scandir(data / prefix):
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if name in kept:
                continue
            if name in ways and entry.is_dir(follow_symlinks=False):
                make_folder(folder / entry.name, 0o755)
                walk(folder / entry.name, name)
            else:
                os.mknod(folder / entry.name, stat.S_IFCHR, os.makedev(0, 0))

    walk(hidden, "")
