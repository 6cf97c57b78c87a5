"""Devices of this machine as the Container Device Interface describes them: which nodes, files and variables to give.

Source: Container Device Interface specification 0.6 to 1.0 (cncf-tags/container-device-interface, SPEC.md). Only JSON
files are read: no YAML library is among our dependencies. Hooks are programs of the host that a runtime would start
as root. None is started: what the known ones of NVIDIA's toolkit do is done here or is not needed, any other refuses
the device.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from referee.errors import UnsafeHostError

# Later folders override earlier ones, as the specification says.
FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))

_HOOK_PROGRAMS = ("nvidia-ctk", "nvidia-cdi-hook", "nvidia-container-toolkit.nvidia-cdi-hook")
# `chmod` and the last two change what a sandbox may not change anyway: modes of nodes, CUDA's own compatibility.
_NOT_NEEDED = ("chmod", "disable-device-node-modification", "enable-cuda-compat")
_ALL = "all"
_CLASS = "gpu"
GENERATE = "nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A character device: its path inside, its numbers, and what may be done with it (of `r` and `w`)."""

    path: str
    major: int
    minor: int
    access: str = "rw"


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file or folder of the host, shown read-only at `path`."""

    source: Path
    path: str


@dataclass(frozen=True, slots=True)
class Edits:
    """What a sandbox gets, of one device or of several together.

    Attributes:
        links: (path, target) of symbolic links to be made.
        library_folders: where a loader would find the shared files.
        own_nodes: the nodes of the devices themselves, without those that all devices of a vendor have in common.
    """

    nodes: tuple[DeviceNode, ...] = ()
    files: tuple[SharedFile, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    library_folders: tuple[str, ...] = ()
    own_nodes: tuple[DeviceNode, ...] = ()

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            _unique(self.nodes, other.nodes), _unique(self.files, other.files),
            tuple((dict(self.environment) | dict(other.environment)).items()), _unique(self.links, other.links),
            _unique(self.library_folders, other.library_folders), _unique(self.own_nodes, other.own_nodes),
        )  # fmt: skip


NO_EDITS = Edits()


def _unique(*parts: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))


@dataclass(frozen=True, slots=True)
class Device:
    """One device of one specification. `kind` is `vendor/class`; `facts` and `common` are its edits, not yet read."""

    kind: str
    name: str
    facts: Mapping[str, Any] = field(repr=False)
    common: Mapping[str, Any] = field(repr=False)

    @property
    def qualified_name(self) -> str:
        """`vendor/class=name`."""
        return f"{self.kind}={self.name}"

    def is_called(self, name: str) -> bool:
        """Whether `name` means this device: its qualified name, or the vendor's own."""
        return name in (self.qualified_name, self.name)

    @property
    def places(self) -> tuple[Path, ...]:
        """Where its own nodes lie on this machine."""
        return tuple(
            Path(str(each.get("hostPath") or each.get("path"))) for each in self.facts.get("deviceNodes") or ()
        )

    def edits(self) -> Edits:
        """What the device needs, checked.

        Raises:
            UnsafeHostError: if it asks for something that a sandbox does not give.
        """
        own, common = _edits(self.facts, self.qualified_name), _edits(self.common, self.qualified_name)
        return Edits(own_nodes=own.nodes) + common + own


def gpu_devices(folders: Sequence[Path] = FOLDERS) -> list[Device]:
    """Every GPU that a specification names, one name after the other; `all` is left out.

    Raises:
        UnsafeHostError: if a specification cannot be read.
    """
    found: dict[str, Device] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            for device in _specification(path):
                if device.kind.partition("/")[2] == _CLASS and device.name != _ALL:
                    found[device.qualified_name] = device
    return list(found.values())


def only_yaml(folders: Sequence[Path] = FOLDERS) -> list[Path]:
    """Specifications that cannot be read because they are YAML."""
    return [
        path for folder in folders for path in sorted(folder.glob("*.y*ml")) if not path.with_suffix(".json").exists()
    ]


def find_device(name: str, index: int | None, devices: Sequence[Device]) -> Device:
    """The device called `name`: a qualified name, or a vendor's own (a UUID); else the one with the vendor's `index`.

    Raises:
        UnsafeHostError: if no specification names it.
    """
    for device in devices:
        if device.is_called(name):
            return device
    for device in devices:
        if index is not None and device.name in (str(index), f"gpu{index}"):
            return device
    hint = f"Type: {GENERATE}"
    if yaml := only_yaml(FOLDERS):
        hint = f"{yaml[0]} is YAML, which Referee does not read. {hint}"
    raise UnsafeHostError(f"No CDI specification on this machine names the GPU {name}.", hint=hint)


def _specification(path: Path) -> list[Device]:
    try:
        facts = json.loads(path.read_bytes())
        version = str(facts["cdiVersion"])
        kind, common = str(facts["kind"]), facts.get("containerEdits") or {}
        devices = [
            Device(kind, str(each["name"]), each.get("containerEdits") or {}, common) for each in facts["devices"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsafeHostError(
            f"The CDI specification {path} cannot be read: {type(error).__name__} {error}.", hint=f"Type: {GENERATE}"
        ) from error
    if not re.fullmatch(r"(0\.[3-9]|1\.\d+)\.\d+", version):
        raise UnsafeHostError(f"The CDI specification {path} has the version {version}.", hint=f"Type: {GENERATE}")
    return devices


def _edits(facts: Mapping[str, Any], device: str) -> Edits:
    try:
        unknown = set(facts) - {"deviceNodes", "mounts", "env", "hooks"}
        if unknown:
            raise _refused(device, f"it asks for {', '.join(sorted(unknown))}")
        links, folders = _hooks(facts.get("hooks") or (), device)
        return Edits(
            nodes=tuple(_node(each, device) for each in facts.get("deviceNodes") or ()),
            files=tuple(_file(each, device) for each in facts.get("mounts") or () if not _is_socket(each)),
            environment=tuple((n, v) for n, _, v in (str(each).partition("=") for each in facts.get("env") or ())),
            links=links,
            library_folders=folders,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise _refused(device, f"its description is not understood ({type(error).__name__} {error})") from error


def _refused(device: str, reason: str) -> UnsafeHostError:
    return UnsafeHostError(
        f"The device {device} cannot be given to a sandbox: {reason}.", hint="Mend its CDI specification."
    )


def _node(facts: Mapping[str, Any], device: str) -> DeviceNode:
    path = _inside(facts["path"], device)
    if not path.startswith("/dev/"):
        raise _refused(device, f"its node {path} lies outside /dev")
    status = Path(facts.get("hostPath") or path).stat()
    if not stat.S_ISCHR(status.st_mode) or facts.get("type", "c") not in ("c", "u", ""):
        raise _refused(device, f"{path} is not a character device")
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if (facts.get("major", major), facts.get("minor", minor)) != (major, minor):
        raise _refused(device, f"{path} has other numbers than its specification says")
    access = "".join(letter for letter in "rw" if letter in (facts.get("permissions") or "rw"))
    return DeviceNode(path, major, minor, access)


def _is_socket(facts: Mapping[str, Any]) -> bool:
    """A socket of a host's daemon is a way out of a sandbox. CUDA works without those that NVIDIA's toolkit names."""
    return Path(facts["hostPath"]).is_socket()


def _file(facts: Mapping[str, Any], device: str) -> SharedFile:
    source = Path(facts["hostPath"])
    if facts.get("type") not in (None, "", "bind", "none"):
        raise _refused(device, f"it asks for a mount of the kind {facts['type']}")
    if not source.is_absolute() or not (source.is_file() or source.is_dir()):
        raise _refused(device, f"{source} is not a file or folder of this machine")
    return SharedFile(source, _inside(facts["containerPath"], device))


def _inside(path: object, device: str) -> str:
    text = str(path)
    if not text.startswith("/") or text == "/" or ".." in PurePosixPath(text).parts or "\0" in text:
        raise _refused(device, f"{text!r} is not a path inside a sandbox")
    return str(PurePosixPath(text))


def _hooks(hooks: Iterable[Mapping[str, Any]], device: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Links and library folders that the known hooks would make; any other hook refuses the device."""
    links: list[tuple[str, str]] = []
    folders: list[str] = []
    for hook in hooks:
        words = [str(word) for word in hook.get("args") or ()][1:]
        words = words[1:] if words[:1] == ["hook"] else words
        verb = words[0] if words else ""
        if PurePosixPath(str(hook["path"])).name not in _HOOK_PROGRAMS:
            raise _refused(device, f"it wants to start the program {hook['path']} as root")
        if verb == "create-symlinks":
            for target, _, path in (pair.partition("::") for pair in _options(words, "--link")):
                links.append((_inside(path, device), target))
        elif verb == "update-ldcache":
            folders += [_inside(folder, device) for folder in _options(words, "--folder")]
        elif verb not in _NOT_NEEDED:
            raise _refused(device, f"it wants to start `{PurePosixPath(str(hook['path'])).name} {verb}` as root")
    return tuple(links), tuple(folders)


def _options(words: Sequence[str], name: str) -> list[str]:
    following = [word for before, word in pairwise(words) if before == name]
    return following + [word.partition("=")[2] for word in words if word.startswith(name + "=")]
