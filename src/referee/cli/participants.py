"""`referee check` and `referee try`: what a participant does at home, with the very same reader and sandbox."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from referee.attempts import AttemptResult, AttemptSpec
from referee.challenge import Challenge
from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, app
from referee.cli.views import measured_table
from referee.errors import ConfigurationError, HostError
from referee.images.source import parse_source
from referee.images.store import ImageStore
from referee.objects import ObjectStore
from referee.phases import PhaseData, phase_names, record_phase
from referee.predictions import Labels, PredictionError, describe_format, read_predictions
from referee.scoring.metric import chosen_metrics
from referee.units import format_duration
from referee.verdicts import MEANINGS, Verdict
from referee.workspace import Workspace

Phase = Annotated[str | None, Parameter(help="Which phase; by default the first public one.")]


@app.command
def check(predictions: Path, *, phase: Phase = None, challenge: Folder = HERE, json: AsJson = False) -> int:
    """Say whether a prediction file is well formed. Exit status 0 if it is, 1 if it is not.

    Parameters
    ----------
    predictions
        The CSV file to check.
    """
    workspace = Workspace.open(challenge)
    name = phase or _first_public(workspace.challenge)
    if not predictions.is_file():
        raise ConfigurationError(f"There is no file {predictions}.", hint="Give the path of your prediction file.")
    layout, limit = workspace.challenge.predictions, workspace.challenge.limits.output
    try:
        found = read_predictions(predictions, phase_names(workspace.challenge, name), layout, limit_bytes=limit)
    except PredictionError as error:
        if json:
            screen.print_json(
                {"ok": False, "phase": name, "problem": str(error.problem), "row": error.row, "message": error.message}
            )
        else:
            screen.print_error(error)
            screen.say(describe_format(layout))
        return error.exit_code
    if json:
        screen.print_json({"ok": True, "phase": name, "rows": found.rows, "digest": found.digest})
    else:
        screen.say(f"{predictions} is well formed: {found.rows} predictions, one for each file of {name}.")
    return 0


@app.command(name="try")
def try_image(
    image: str,
    *,
    phase: Phase = None,
    gpu: Annotated[bool, Parameter(negative="", help="Give it the GPUs of the contract.")] = False,
    keep: Annotated[Path | None, Parameter(help="Copy the predictions and the log into this folder.")] = None,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> int:
    """Run one image on a public phase: sandbox, limits, checks and verdicts as in the campaign, and the full log.

    Exit status 0 if the verdict is ok, else 1.

    Parameters
    ----------
    image
        An OCI archive, a docker archive, an OCI layout folder, or an image name.
    """
    workspace = Workspace.open(challenge)
    name = phase or _first_public(workspace.challenge)
    if workspace.challenge.phase(name).visibility != "public":
        raise ConfigurationError(f"{name} is a private phase.", hint="Try images on a public phase.")
    source = parse_source(image, Path.cwd())
    # Beside the challenge rather than in /tmp, which may be small; nothing of the campaign is touched.
    folder = Path(tempfile.mkdtemp(prefix="try-", dir=workspace.state))
    try:
        objects = ObjectStore(folder / "objects")
        screen.note(f"Importing {image}")
        record = ImageStore(folder / "objects").import_image(source)
        for finding in record.findings:
            screen.note(f"Note: {finding}")
        data = record_phase(workspace.challenge, name)
        # Before anything runs: a wrong label file must not cost the run.
        labels = workspace.labels(name, data) if workspace.challenge.phase(name).labels else None
        spec = _spec(workspace.challenge, name, data, record.digest, gpu=gpu)
        objects.put_once(spec.phase_data_key, data.model_dump_json().encode())
        objects.put_once(f"specs/{spec.attempt}.json", spec.model_dump_json().encode())
        screen.note(f"Running it on {len(data.files)} files of {name}")
        result = _run(spec, objects, workspace.node)
        log = objects.get(f"results/{spec.result_key}/log.txt") if result.log_digest else b""
        predictions = objects.get(f"results/{spec.result_key}/predictions.csv") if result.predictions_digest else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / "log.txt").write_bytes(log)
        if predictions is not None:
            (keep / workspace.challenge.contract.predictions).write_bytes(predictions)
    scores = _scores(workspace.challenge, labels, predictions)
    if json:
        screen.print_json({"result": result.model_dump(mode="json"), "scores": scores})
    else:
        _print_result(result, log, scores, workspace.challenge)
    return 0 if result.verdict is Verdict.OK else 1


def _first_public(challenge: Challenge) -> str:
    for name, phase in challenge.phases.items():
        if phase.visibility == "public":
            return name
    raise ConfigurationError("There is no public phase in challenge.toml.", hint="Name a phase with --phase.")


def _spec(challenge: Challenge, phase: str, data: PhaseData, image: str, *, gpu: bool) -> AttemptSpec:
    return AttemptSpec(
        attempt=f"try.{phase}.{secrets.token_hex(4)}",
        evaluation=f"try.{phase}",
        campaign="try",
        submission="try",
        phase=phase,
        image=image,
        phase_data_key=data.key,
        result_key=secrets.token_hex(16),
        private=False,
        gpus=challenge.limits.gpus if gpu else 0,
        level=challenge.sandbox.level,
        accepted_risks=challenge.sandbox.accepted_risks,
        contract=challenge.contract,
        limits=challenge.limits,
        predictions=challenge.predictions,
    )


def _run(spec: AttemptSpec, objects: ObjectStore, node: Path) -> AttemptResult:
    command = [sys.executable, "-m", "referee.worker", f"specs/{spec.attempt}.json"]
    command += ["--objects", objects.location, "--node", str(node), "--job", f"try-{os.getpid()}"]
    subprocess.run(command, check=False)
    if not objects.exists(f"results/{spec.result_key}/result.json"):
        raise HostError("The worker ended without a result.", hint="See what it printed, and `referee doctor`.")
    return AttemptResult.model_validate_json(objects.get(f"results/{spec.result_key}/result.json"))


def _scores(challenge: Challenge, labels: Labels | None, predictions: bytes | None) -> dict[str, float]:
    """By the metrics that are defined on these labels."""
    if predictions is None or labels is None:
        return {}
    found = read_predictions(predictions, labels.names, challenge.predictions, limit_bytes=challenge.limits.output)
    rows = np.asarray(found.values)[None, :]
    scores = {metric.name: float(metric.score(labels.values, rows)[0]) for metric in chosen_metrics(challenge.metric)}
    return {name: score for name, score in scores.items() if math.isfinite(score)}


def _print_result(result: AttemptResult, log: bytes, scores: dict[str, float], challenge: Challenge) -> None:
    screen.say(log.decode("utf-8", "backslashreplace"))
    screen.say(f"Verdict: {result.verdict}. {MEANINGS[result.verdict].participant}")
    if result.detail:
        screen.say(f"Why: {result.detail}")
    if result.measurements:
        measured_table(result.measurements, challenge.limits)
    for metric, score in scores.items():
        screen.say(f"{metric}: {score:.6f}")
    screen.say(f"It took {format_duration(result.ended_at - result.started_at)}.")
