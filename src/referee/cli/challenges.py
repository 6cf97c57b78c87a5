"""`referee init` and `referee doctor`: a challenge to begin with, and what this machine can do."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from referee.challenge import FILE_NAME, load_challenge
from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, app
from referee.engines.slurm_doctor import examine_cluster
from referee.errors import ConfigurationError, UnsafeHostError
from referee.sandbox import Promise, examine_host, prove_host

_README = """# {name}

- `challenge.toml`: what is judged; every key is explained there.
- `data/<phase>/`: the files that submissions see, read-only.
- `labels/<phase>.csv`: `filename,label`; never shown to a submission, a worker or an engine.

Next: put your files there, then `referee doctor`, `referee submissions import submissions.csv`,
`referee run --phase private_test`.
"""


@app.command
def init(folder: Path) -> None:
    """Make a new challenge: a commented challenge.toml that validates, and the folders that it names.

    Parameters
    ----------
    folder
        The folder to make; its name becomes the challenge's name.
    """
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-_") or "challenge"
    target = folder / FILE_NAME
    if target.exists():
        raise ConfigurationError(f"{target} exists already.", hint="Choose another folder; nothing was changed.")
    for phase in ("public_validation", "private_test"):
        (folder / "data" / phase).mkdir(parents=True, exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        labels = folder / "labels" / f"{phase}.csv"
        if not labels.exists():
            labels.write_text("filename,label\n", encoding="utf-8")
    template = resources.files("referee.cli").joinpath("challenge_template.toml").read_text(encoding="utf-8")
    target.write_text(template.replace("@NAME@", name), encoding="utf-8")
    (folder / "README.md").write_text(_README.format(name=name), encoding="utf-8")
    load_challenge(target)
    screen.say(f"Made {target}. Put the phases' files and labels below {folder}/, then: cd {folder} && referee doctor")


@app.command
def doctor(
    *,
    challenge: Folder = HERE,
    prove: Annotated[
        bool, Parameter(negative="--no-prove", help="Also run the probe containers that show each promise.")
    ] = True,
    json: AsJson = False,
) -> int:
    """Say what this machine can and cannot do, prove its sandbox, and say how to mend what is wrong."""
    loaded = load_challenge(challenge) if (challenge / FILE_NAME).is_file() or challenge.is_file() else None
    level = loaded.sandbox.level if loaded else "runc"
    accepted = loaded.sandbox.accepted_risks if loaded else ()
    node = (loaded.state_folder if loaded else Path("~/.cache/referee").expanduser()) / "node"
    slurm = loaded.engine.slurm if loaded and loaded.engine.name == "slurm" else None
    # The nodes prove their sandboxes themselves; from here only the way to them can be looked at.
    if slurm and loaded:
        checks = examine_cluster(slurm, machines=loaded.machines, limits=loaded.limits, level=level)
    else:
        checks = examine_host(level)
    prove = prove and slurm is None
    able = all(check.status != "fail" for check in checks)
    proof, refusal = None, ""
    if prove and able:
        try:
            proof = prove_host(node, level, accepted)
        except UnsafeHostError as error:
            refusal = str(error)
    if json:
        screen.print_json(
            {
                "able": able and not refusal,
                "checks": [check.as_json() for check in checks],
                "proof": proof.as_json() if proof else None,
                "refusal": refusal or None,
            }
        )
        return 0 if able and not refusal else UnsafeHostError.exit_code
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    screen.print_table(
        ["", "host", "seen", "how to mend"],
        [
            (
                Text(check.status, colours[check.status]),
                check.name,
                check.seen,
                check.mend if check.status != "ok" else "",
            )
            for check in checks
        ],
    )
    if proof:
        screen.say()
        screen.print_table(
            ["", "promise", "seen"],
            [(_standing(check), check.name, check.seen) for check in proof.checks],
        )
    screen.say()
    if not able:
        subject = "The cluster" if slurm else "This machine"
        screen.say(f"{subject} cannot run submissions yet: mend what says `fail`.")
    elif slurm:
        screen.say("The cluster takes submissions; each node proves its sandbox before its first one.")
    elif refusal:
        screen.say(refusal)
    elif proof:
        kept = sum(promise.applies for promise in proof.checks)
        screen.say(f"This machine keeps all {kept} promises of the sandbox level {level!r}.")
    return 0 if able and not refusal else UnsafeHostError.exit_code


def _standing(promise: Promise) -> Text:
    if not promise.applies:
        return Text("n/a", "dim")
    return Text("held", "green") if promise.held else Text("BROKEN", "bold red")
