"""`referee images …`: the store of all submissions' images."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, app
from referee.errors import ConfigurationError
from referee.ledger import queries
from referee.units import format_size
from referee.workspace import Workspace

images_app = App(name="images", help="The store of all submissions' images.")
app.command(images_app)


@images_app.command
def prune(
    *,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be removed.")] = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Remove what no submission needs from the image store: remains of imports that were killed or never recorded.

    The image of every submission in the ledger stays, also of those that were withdrawn or disqualified: they may be
    reinstated, run again or audited. In a bucket nothing is removed.
    """
    workspace = Workspace.open(challenge)
    slurm = workspace.challenge.engine.slurm
    if workspace.challenge.engine.name == "slurm" and slurm is not None:
        raise ConfigurationError(
            f"The images lie in {slurm.shared}, which other challenges may use too: nothing is removed there.",
            hint="When no challenge uses the folder any more, remove it as a whole.",
        )
    with workspace.ledger() as ledger:
        found = workspace.images.prune(lambda: {row.image for row in queries.submissions(ledger)}, dry_run=dry_run)
    if json:
        screen.print_json(
            {
                "removed": not dry_run,
                "images": list(found.images),
                "blobs": found.blobs,
                "size_bytes": found.size_bytes,
                "kept": found.kept,
            }
        )
        return
    what = (
        f"{len(found.images)} images and {found.blobs} blobs that no submission needs, {format_size(found.size_bytes)}"
    )
    screen.say(f"{'Would remove' if dry_run else 'Removed'} {what}. {found.kept} images stay.")
    for digest in found.images:
        screen.say(f"  {digest}")
