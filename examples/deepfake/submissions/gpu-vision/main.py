"""A detector for a GPU: look for the device first, and refuse to run without one."""

import csv
import os
import sys
from pathlib import Path

data = Path(os.environ.get("REFEREE_DATA", "/data"))
output = Path(os.environ.get("REFEREE_OUTPUT", "/output"))

if not Path("/dev/nvidiactl").exists() and not Path("/dev/kfd").exists():
    sys.exit("no GPU is visible: this model needs one")

with (output / "submission.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["filename", "label"])
    writer.writerows([clip.name, 0.5] for clip in sorted(data.glob("*.mp4")))
