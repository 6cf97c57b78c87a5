"""Keep an index beside the code. Where the root is read-only, as this contract says, that cannot be written."""

import csv
import os
from pathlib import Path

data = Path(os.environ.get("REFEREE_DATA", "/data"))
output = Path(os.environ.get("REFEREE_OUTPUT", "/output"))
clips = sorted(data.glob("*.mp4"))

Path(__file__).with_name("index.txt").write_text("\n".join(clip.name for clip in clips))

with (output / "submission.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["filename", "label"])
    writer.writerows([clip.name, 0.55] for clip in clips)
