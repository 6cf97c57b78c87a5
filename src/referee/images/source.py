"""Where an image comes from, as a person writes it: a skopeo source, a path, or a name."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from referee.challenge import Frozen
from referee.errors import ConfigurationError
from referee.images.model import shown

_NAME = re.compile(
    r"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_STORED = re.compile(r"(?:\[[^\[\]\x00-\x20]+\])?@?[A-Za-z0-9][A-Za-z0-9._/:@-]*", re.ASCII)
_ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci", ".tar.xz", ".tar.bz2")
VALID = (
    "a path (an OCI layout folder, an OCI archive or a docker archive), oci:FOLDER[:TAG], oci-archive:FILE[:TAG], "
    "docker-archive:FILE[:NAME], containers-storage:NAME, docker://NAME, or an image's name"
)


class Transport(StrEnum):
    """How an image is read."""

    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    ARCHIVE = "archive"
    STORAGE = "containers-storage"
    REGISTRY = "docker"
    NAME = "name"


_WITH_PATH = {Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE}
_REFUSED = {"docker-daemon", "dir", "tarball", "sif", "ostree", "atomic"}


class ImageSource(Frozen):
    """A place to import an image from.

    Attributes:
        path: of a folder or a file, absolute; with it, `reference` is a tag or a name inside, or empty.
        reference: otherwise what skopeo or podman knows the image by.
    """

    transport: Transport
    path: Path | None = None
    reference: str = ""

    def __str__(self) -> str:
        place = str(self.path) if self.path is not None else self.reference
        tag = f":{self.reference}" if self.path is not None and self.reference else ""
        match self.transport:
            case Transport.REGISTRY:
                return f"docker://{place}"
            case Transport.NAME | Transport.ARCHIVE:
                return place + tag
            case _:
                return f"{self.transport}:{place}{tag}"


def parse_source(text: str, folder: Path) -> ImageSource:
    """The source that `text` means; relative paths are relative to `folder`.

    Files and folders are looked at, and no program is started.

    Raises:
        ConfigurationError: what is wrong with it, and what is valid.
    """
    if not text or len(text) > 4096 or not text.isprintable():
        raise _wrong(f"{shown(text)} is not an image")
    try:
        return _parse(text, folder)
    except (OSError, RuntimeError) as error:  # a name too long, a folder without permission, no home folder
        raise _wrong(f"{shown(text)} cannot be looked at ({error.__class__.__name__})") from error


def _parse(text: str, folder: Path) -> ImageSource:
    prefix, colon, rest = text.partition(":")
    if colon and prefix in _REFUSED:
        raise _wrong(f"{shown(text)}: images are not read from `{prefix}:`")
    if text.startswith("docker://"):
        return _named(Transport.REGISTRY, text.removeprefix("docker://"), _NAME)
    if colon and prefix == Transport.STORAGE:
        return _named(Transport.STORAGE, rest, _STORED)
    if colon and prefix in _WITH_PATH:
        return _in_path(Transport(prefix), rest, folder)
    path = _absolute(text, folder)
    if path.exists() or text.startswith(("/", "./", "../", "~")) or text.lower().endswith(_ARCHIVE_ENDINGS):
        return _at_path(path)
    return _named(Transport.NAME, text, _NAME)


def _named(transport: Transport, name: str, pattern: re.Pattern[str]) -> ImageSource:
    if not pattern.fullmatch(name):
        raise _wrong(f"{shown(name)} is neither a path that exists nor an image's name")
    return ImageSource(transport=transport, reference=name)


def _in_path(transport: Transport, rest: str, folder: Path) -> ImageSource:
    whole = _absolute(rest, folder)
    if whole.exists():
        path, reference = whole, ""
    else:
        place, _, reference = rest.partition(":")
        path = _absolute(place, folder)
    if transport is Transport.OCI:
        _require_layout(path)
    elif not path.is_file():
        raise _wrong(f"there is no file {path}")
    return ImageSource(transport=transport, path=path, reference=reference)


def _at_path(path: Path) -> ImageSource:
    if path.is_dir():
        _require_layout(path)
        return ImageSource(transport=Transport.OCI, path=path)
    if not path.is_file():
        raise _wrong(f"there is no file {path}")
    return ImageSource(transport=Transport.ARCHIVE, path=path)


def _require_layout(path: Path) -> None:
    if not path.is_dir():
        raise _wrong(f"there is no folder {path}")
    if not (path / "index.json").is_file():
        raise _wrong(f"{path} is a folder, but no OCI layout (it has no index.json)")


def _absolute(text: str, folder: Path) -> Path:
    return Path(folder, Path(text).expanduser() if text.startswith("~/") else text).absolute()


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"{what}.", hint=f"An image is {VALID}.")
