"""Judge a clip by the size of its file alone: smooth faces compress well, and smooth faces are suspicious."""

import csv
import math
import os
from pathlib import Path

data = Path(os.environ.get("REFEREE_DATA", "/data"))
output = Path(os.environ.get("REFEREE_OUTPUT", "/output"))
clips = sorted(data.glob("*.mp4"))
logs = {clip: math.log(clip.stat().st_size + 1) for clip in clips}
mean = sum(logs.values()) / len(logs)

with (output / "submission.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["filename", "label"])
    for clip in clips:
        writer.writerow([clip.name, f"{1 / (1 + math.exp(0.3 * (logs[clip] - mean))):.6f}"])
