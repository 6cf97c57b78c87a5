"""`referee export …`: hand results back to the platform that the submissions came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, Unblind, app
from referee.publication import hand_back
from referee.workspace import Workspace

export_app = App(name="export", help="Hand results back to the platform that the submissions came from.")
app.command(export_app)


@export_app.command(name="kaggle")
def export_kaggle(
    folder: Path,
    *,
    phase: Annotated[str | None, Parameter(help="Which phase; by default the private one that was run.")] = None,
    unblind: Unblind = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Write each submission's prediction file, byte for byte as it was recorded, and a manifest of digests.

    No score is in it: the platform computes its own from the files.

    Parameters
    ----------
    folder
        A new folder. It gets a CSV file for each valid result, and manifest.csv, which names every submission.
    """
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        name = workspace.phase_or_default(ledger, phase)
        returned = hand_back(workspace, ledger, name, folder, unblind=unblind)
    valid = [one for one in returned if one.file]
    if json:
        screen.print_json(
            {
                "phase": name,
                "folder": str(folder),
                "files": {one.evaluation.submission: one.file for one in valid},
                "without": {
                    one.evaluation.submission: str(one.evaluation.verdict or "") for one in returned if not one.file
                },
            }
        )
        return
    screen.say(f"Wrote {len(valid)} prediction files of {name} to {folder}, with manifest.csv.")
    if len(valid) < len(returned):
        screen.say(f"{len(returned) - len(valid)} submissions have none; the manifest says how each ended.")
