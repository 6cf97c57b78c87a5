"""Refine an estimate until it no longer changes. It goes round in a circle, so that never happens."""

import csv
import os
from pathlib import Path

data = Path(os.environ.get("REFEREE_DATA", "/data"))
output = Path(os.environ.get("REFEREE_OUTPUT", "/output"))


def refined(estimate: float) -> float:
    """One step of the logistic map, at a rate where it swings between two values for ever."""
    return 3.2 * estimate * (1 - estimate)


with (output / "submission.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["filename", "label"])
    for clip in sorted(data.glob("*.mp4")):
        before, estimate = 0.0, 0.4
        while abs(before - estimate) > 1e-3:
            before, estimate = estimate, refined(estimate)
        writer.writerow([clip.name, estimate])
