"""The roster: which team submits which image, as `roster.toml` lists them."""

import json
import shutil
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
    settings: dict[str, int] = field(default_factory=dict)
    same_image_as: str = ""

    def copy_program(self, submissions: Path, weights: Path | None, into: Path) -> None:
        """Copy the submission's folder to a new place, with its trained weights and with this entry's settings."""
        shutil.copytree(submissions / self.folder, into, ignore=shutil.ignore_patterns("__pycache__"))
        if weights is not None:
            shutil.copy(weights / "weights.npz", into)
        if self.settings:
            (into / "settings.json").write_text(json.dumps(self.settings) + "\n")

    @property
    def source(self) -> str:
        """What skopeo calls the image, relative to the folder of the CSV file."""
        suffix = "" if self.transport == "oci" else ".tar"
        return f"{self.transport}:images/{self.name}{suffix}"


def read_roster(path: Path) -> list[Entry]:
    """Read the roster; a wrong key is a TypeError that names it."""
    return [Entry(**row) for row in tomllib.loads(path.read_text())["submission"]]
