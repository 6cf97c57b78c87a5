"""Training and public scores: each detector's own code, run outside of a container."""

import csv
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from builder.commands import run
from builder.roster import Entry

EPSILON = 1e-15
EMBELLISHMENT = 0.6
"""What an embellished public score is multiplied with: better than the truth by far more than any rounding."""


@dataclass(frozen=True)
class PublicResult:
    """What a team may have seen on the public board: log loss (natural logarithm) and wall time in seconds."""

    score: float
    runtime_seconds: float


def train(folder: Path, phases: Path, into: Path) -> None:
    """Run a submission's `train.py` on the training phase; it writes `weights.npz`."""
    run(
        [sys.executable, "train.py", phases / "training", phases / "training.labels.csv", into / "weights.npz"],
        cwd=folder,
        environment=_one_thread(),
    )


def public_result(
    entry: Entry, *, submissions: Path, weights: Path | None, phases: Path, phase: str, scratch: Path
) -> PublicResult:
    """Run a submission's `main.py` on a phase, from a copy in the empty folder `scratch`, and score what it wrote."""
    program, output = scratch / "app", scratch / "output"
    entry.copy_program(submissions, weights, program)
    output.mkdir()
    places = {"REFEREE_DATA": str(phases / phase), "REFEREE_OUTPUT": str(output)}
    started = time.monotonic()
    run([sys.executable, "main.py"], cwd=program, environment=_one_thread() | places)
    seconds = time.monotonic() - started
    return PublicResult(log_loss(phases / f"{phase}.labels.csv", output / "submission.csv"), seconds)


def log_loss(labels: Path, predictions: Path) -> float:
    """Mean negative natural logarithm of the probability given to the truth, clipped to [EPSILON, 1 - EPSILON]."""
    with labels.open(newline="") as file:
        truth = {row["filename"]: int(row["label"]) for row in csv.DictReader(file)}
    with predictions.open(newline="") as file:
        given = {row["filename"]: float(row["label"]) for row in csv.DictReader(file)}
    losses = []
    for name, label in truth.items():
        p = min(max(given[name], EPSILON), 1 - EPSILON)
        losses.append(-math.log(p if label else 1 - p))
    return math.fsum(losses) / len(losses)


def _one_thread() -> dict[str, str]:
    """One thread for linear algebra, as in a container with one CPU; no byte code beside the sources."""
    return dict(os.environ) | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
