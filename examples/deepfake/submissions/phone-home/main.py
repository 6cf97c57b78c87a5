"""Fetch the model's weights from its authors' server before the first clip; without a network, give up."""

import csv
import os
import socket
import sys
from pathlib import Path

data = Path(os.environ.get("REFEREE_DATA", "/data"))
output = Path(os.environ.get("REFEREE_OUTPUT", "/output"))

try:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): there is no server, with a network or without.
    with socket.create_connection(("192.0.2.10", 443), timeout=5) as connection:
        connection.sendall(b"weights, please\n")
        prior = float(connection.recv(64))
except OSError as error:
    sys.exit(f"could not fetch the weights: {error}")

with (output / "submission.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["filename", "label"])
    writer.writerows([clip.name, prior] for clip in sorted(data.glob("*.mp4")))
