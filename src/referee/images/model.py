"""What is known about an image: its digests, its layers, and the part of its configuration that counts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from referee.challenge import Frozen
from referee.digests import digest_of
from referee.errors import HostError, ImageError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class NoRoomError(HostError):
    """This machine has no room for an image: its disk is full, or the node's cache is too small for what is in use."""


class ImageLostError(HostError):
    """A stored image is missing or is no longer what was imported."""

    exit_code: ClassVar[int] = 3


def digest_hex(digest: str) -> str:
    """The hexadecimal part of `sha256:<64 hex>`, safe as a file name.

    Raises:
        ImageError: if it is not such a digest.
    """
    if not _DIGEST.fullmatch(digest):
        raise ImageError(
            f"{shown(digest)} is not a digest that Referee uses.", hint="It is `sha256:` and 64 hexadecimal digits."
        )
    return digest.removeprefix("sha256:")


def shown(text: str | bytes, limit: int = 120) -> str:
    """Untrusted text for a person: quoted, control and invisible characters escaped, shortened."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    quoted = json.dumps(text[:limit], ensure_ascii=not text[:limit].isprintable())
    return quoted if len(text) <= limit else quoted + "…"


class ImageConfig(Frozen):
    """The image's own configuration, as far as a sandbox honours it (OCI image specification, `config`)."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_folder: str = "/"
    user: str = ""


class LayerFacts(Frozen):
    """What one pass over a layer showed. Stored once for each layer, beside its blob.

    Attributes:
        digest: of the blob as stored (compressed).
        diff_id: of the tar stream inside; the layer's name on a node.
        stored_bytes: size of the blob.
        unpacked_bytes: size of the tar stream.
        disk_bytes: what the layer takes on a node's disk, an upper estimate.
        entries: number of entries in the archive, and of folders that only their names imply.
        setuid: how many files have the setuid or setgid bit, and `examples` of them.
        special: how many device nodes and FIFOs there are; they are never created.
        capabilities: how many files carry capabilities; they are dropped.
        foreign_ids: how many entries belong to ids above 65535; they come to belong to nobody (65534).
        examples: a few names (as text to show) for each of the counts above.
        shallow: what lies at the paths at most three names deep: `d` folder, `o` opaque folder, `w` whiteout,
            `f` file, `l` symbolic link. Names that are not UTF-8 are left out: no contract can name them.
    """

    digest: str
    diff_id: str
    stored_bytes: int
    unpacked_bytes: int
    disk_bytes: int
    entries: int
    setuid: int = 0
    special: int = 0
    capabilities: int = 0
    foreign_ids: int = 0
    examples: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    shallow: dict[str, str] = Field(default_factory=dict)


class ImageRecord(Frozen):
    """An image in the store, pinned by digest at import.

    Attributes:
        digest: digest of the OCI manifest; the image's name everywhere in Referee.
        config_digest: digest of the configuration.
        layers: digests of the layers' blobs, lowest first.
        diff_ids: digests of the layers' tar streams, lowest first; a node names its layer folders by them.
        stored_bytes: compressed size of all layers.
        unpacked_bytes: size of the layers' content when unpacked.
        findings: what the linter noticed and the sandbox ignores or overrides (`VOLUME`, `HEALTHCHECK`…).
    """

    digest: str
    config_digest: str
    architecture: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]
    stored_bytes: int
    unpacked_bytes: int
    config: ImageConfig
    findings: tuple[str, ...] = ()

    @property
    def content_digest(self) -> str:
        """Equal for images that would run alike, however they were compressed or archived."""
        text = json.dumps([self.diff_ids, self.config.model_dump(mode="json")], sort_keys=True)
        return digest_of(text)


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """An image on this node, ready to be mounted: layer folders, topmost first (overlayfs `lowerdir` order).

    All folders lie directly below one folder and have short names, so that 120 of them fit into the 4,096 bytes of
    mount options when they are given relative to it. Files belong to the image's own ids (0 to 65535).
    """

    record: ImageRecord
    layers: tuple[Path, ...]
