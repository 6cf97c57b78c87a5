"""The roster: which team submits which image, as `roster.toml` lists them."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """One submission of the example. `public_score` says what its team claims: measured, nothing, or too good."""

    name: str
    team: str
    folder: str
    transport: Literal["oci", "oci-archive", "docker-archive"] = "oci"
    kind: Literal["cpu", "gpu"] = "cpu"
    public_score: Literal["measured", "none", "embellished"] = "measured"
    arguments: dict[str, str] = field(default_factory=dict)
    same_image_as: str = ""

    @property
    def source(self) -> str:
        """What skopeo calls the image, relative to the folder of the CSV file."""
        suffix = "" if self.transport == "oci" else ".tar"
        return f"{self.transport}:images/{self.name}{suffix}"


def read_roster(path: Path) -> list[Entry]:
    """Read the roster; a wrong key is a TypeError that names it."""
    return [Entry(**row) for row in tomllib.loads(path.read_text())["submission"]]
