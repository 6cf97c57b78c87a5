"""What is known about an image: its digests, its layers, and the part of its configuration that counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from referee.challenge import Frozen


class ImageConfig(Frozen):
    """The image's own configuration, as far as a sandbox honours it (OCI image specification, `config`)."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_folder: str = "/"
    user: str = ""


class ImageRecord(Frozen):
    """An image in the store, pinned by digest at import.

    Attributes:
        digest: digest of the OCI manifest; the image's name everywhere in Referee.
        config_digest: digest of the configuration (docker's image id).
        layers: digests of the layers, lowest first.
        stored_bytes: compressed size of all layers.
        unpacked_bytes: size of the layers' content when unpacked.
        findings: what the linter noticed and the sandbox ignores or overrides (`VOLUME`, `HEALTHCHECK`…).
    """

    digest: str
    config_digest: str
    architecture: str
    layers: tuple[str, ...]
    stored_bytes: int
    unpacked_bytes: int
    config: ImageConfig
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """An image on this node, ready to be mounted: layer folders, topmost first (overlayfs `lowerdir` order)."""

    record: ImageRecord
    layers: tuple[Path, ...]
