"""`referee bundle` and `referee verify`: one signed file for an auditor, and its check without the operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from referee.audit import parse_anchor, public_key, verify_bundle
from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, Unblind, app
from referee.errors import ConfigurationError
from referee.ledger import queries
from referee.publication import anchor_line, release, seal_phase, write_bundle_of
from referee.units import format_size
from referee.workspace import Workspace


@app.command
def bundle(
    file: Path | None = None,
    *,
    anchor: Annotated[
        bool,
        Parameter(negative="", help="Write no file: record and print the line that binds you, for third parties."),
    ] = False,
    without_predictions: Annotated[
        bool, Parameter(negative="", help="Leave the prediction files out; their digests stay.")
    ] = False,
    unblind: Unblind = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Write one signed file from which anyone can check how the boards came to be (`referee verify`).

    With --anchor, before the campaign starts: print one short line that commits to challenge, data and labels, to be
    given to third parties.

    Parameters
    ----------
    file
        Where to write it; by default NAME.bundle.tar beside challenge.toml.
    """
    workspace = Workspace.open(challenge)
    if anchor:
        if file is not None or without_predictions or unblind:
            raise ConfigurationError(
                "--anchor writes no file, so it goes with no other option.", hint="Write the bundle afterwards."
            )
        _print_anchor(workspace, json)
        return
    target = file or workspace.challenge.folder / f"{workspace.challenge.name}.bundle.tar"
    if target.is_dir():
        raise ConfigurationError(f"{target} is a folder.", hint="Name the file that is to be written.")
    with workspace.ledger() as ledger:
        manifest = write_bundle_of(workspace, ledger, target, predictions=not without_predictions, unblind=unblind)
        sealed = sorted(name for name, row in queries.seals(ledger).items() if row.sealed)
    size = target.stat().st_size
    if json:
        screen.print_json(
            {
                "file": str(target),
                "size_bytes": size,
                "public_key": manifest.public_key,
                "events": manifest.head.seq,
                "head": manifest.head.hash,
                "sealed": sealed,
            }
        )
        return
    screen.say(f"Wrote {target}: {len(manifest.files)} files, {format_size(size)}.")
    screen.say(f"Public key: {manifest.public_key}")
    screen.say(f"Ledger: {manifest.head.seq} events, head {manifest.head.hash}")
    for phase in sealed:
        screen.say(f"Scores on {phase} are sealed: the bundle commits to them without showing them.")


def _print_anchor(workspace: Workspace, json: bool) -> None:
    with workspace.ledger_or_new() as ledger:
        line = anchor_line(workspace, ledger)
        ended = {name: queries.status(ledger, name).done for name in workspace.challenge.phases}
    if json:
        screen.print_json({"anchor": line, "public_key": workspace.signing_key.public, "ended_before": ended})
        return
    screen.say(line)
    screen.note(f"Give this line to third parties, with your public key: {workspace.signing_key.public}")
    screen.note("An auditor checks a later bundle against it: referee verify BUNDLE --anchor LINE")
    for phase, count in ended.items():
        if count:
            screen.note(f"{count} evaluations on {phase} had ended already: the line came late for them.")


@app.command
def seal(*, phase: str, reason: str = "", challenge: Folder = HERE) -> None:
    """Seal a phase before anything on it is scored: from here on no command shows its scores, not even to you.

    Parameters
    ----------
    phase
        The phase to seal.
    reason
        Why; recorded in the ledger.
    """
    workspace = Workspace.open(challenge)
    workspace.challenge.phase(phase)
    with workspace.ledger_or_new() as ledger:
        seal_phase(workspace, ledger, phase, reason)
    screen.say(f"{phase} is sealed. `referee score` commits to its scores without showing them.")


@app.command
def unseal(*, phase: str, reason: str, challenge: Folder = HERE) -> None:
    """Release the scores of a sealed phase: open what was sealed, once and for good.

    Parameters
    ----------
    phase
        The phase to release.
    reason
        Why, and why now; recorded in the ledger.
    """
    workspace = Workspace.open(challenge)
    workspace.challenge.phase(phase)
    if not reason.strip():
        raise ConfigurationError(
            "Unsealing needs a reason.", hint="Say why, and why now: --reason 'The campaign ended.'"
        )
    with workspace.ledger() as ledger:
        count = release(workspace, ledger, phase, reason)
    screen.say(f"{phase} is released: {count} evaluations show their scores. Next: referee leaderboard --phase {phase}")


@app.command
def verify(
    bundle: Path,
    *,
    labels: Annotated[
        tuple[Path, ...],
        Parameter(negative="", help="A label file that you have (repeatable): every score on its phase is recomputed."),
    ] = (),
    anchor: Annotated[
        tuple[str, ...], Parameter(negative="", help="A line that the operator gave out before (repeatable).")
    ] = (),
    key: Annotated[str | None, Parameter(help="The operator's public key, or a file that holds it.")] = None,
    json: AsJson = False,
) -> None:
    """Check a bundle on any machine, without the operator's database, and name the first thing that is wrong.

    Parameters
    ----------
    bundle
        The file that `referee bundle` wrote.
    """
    found = verify_bundle(
        bundle,
        labels=labels,
        anchors=[parse_anchor(line) for line in anchor],
        key=None if key is None else public_key(key),
    )
    if json:
        screen.print_json(
            {
                "sound": True,
                "campaign": found.manifest.campaign,
                "public_key": found.manifest.public_key,
                "events": found.events,
                "head": found.manifest.head.hash,
                "recomputed": {one.phase: one.scores for one in found.recomputed},
                "held": found.held,
                "open": found.open,
            }
        )
        return
    screen.say(f"Nothing is wrong with {bundle}.")
    screen.say()
    screen.say("Checked:")
    for line in found.held:
        screen.say(f"  {line}")
    if found.open:
        screen.say("Not told by this check:")
        for line in found.open:
            screen.say(f"  {line}")
