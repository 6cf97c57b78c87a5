"""A whole campaign with GPUs: devices made for the test, described by CDI as a machine's own are.

The commands run in a mount namespace whose /etc is an overlay, so that the machine's own /etc is not written to.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from itertools import combinations
from pathlib import Path

import pytest

from board_world import REFEREE, as_json, busybox_image, leftovers, make_challenge, predicting, referee

pytestmark = pytest.mark.containers

# What it was given, and from when to when it had it, by the machine's own clock.
SCRIPT = (
    "read from rest < /proc/uptime; for n in 0 1; do test -e /dev/testgpu$n && gpu=$n$gpu; done; "
    + predicting("0.5")
    + "; sleep 1.2; read to rest < /proc/uptime; echo had $gpu $from $to"
)
_IN_ITS_OWN_ETC = """
set -e
mount -t tmpfs none "$1"; mkdir "$1/upper" "$1/work"
mount -t overlay -o lowerdir=/etc,upperdir="$1/upper",workdir="$1/work" overlay /etc
mkdir -p /etc/cdi; cp "$2" /etc/cdi/test.json; shift 2; exec "$@"
"""


class Machine:
    """A challenge with three submissions that want a GPU each, and a machine with some."""

    def __init__(self, folder: Path, gpus: int, limits: str = "") -> None:
        self.folder = make_challenge(folder / "challenge", {"on the processor": (predicting("0.5"), "ok")})
        toml = self.folder / "challenge.toml"
        text = toml.read_text().replace("[limits]", f"[limits]\ncpus = 0.5\n{limits}").replace("slots = 2", "slots = 3")
        toml.write_text(text.replace('wall_time = "3s"', 'wall_time = "20s"'))
        rows = ["submission,team,image,kind"]
        for number in range(3):
            busybox_image(self.folder / "images" / f"gpu-{number}", SCRIPT + f" # {number}")
            rows.append(f"gpu {number},team {number},oci:images/gpu-{number},gpu")
        (self.folder / "submissions.csv").write_text("\n".join(rows) + "\n")
        (folder / "etc").mkdir()
        self._start = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_ITS_OWN_ETC, "sh"]
        self._start += [str(folder / "etc"), str(self._describe(folder, gpus))]

    def _describe(self, folder: Path, gpus: int) -> Path:
        devices = []
        for number in range(gpus):
            os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, (3, 5)[number]))
            node = {"path": f"/dev/testgpu{number}", "hostPath": str(folder / f"gpu{number}")}
            devices.append({"name": f"GPU-{number}", "containerEdits": {"deviceNodes": [node]}})
        place = folder / "cdi.json"
        place.write_text(json.dumps({"cdiVersion": "0.6.0", "kind": "referee.test/gpu", "devices": devices}))
        return place

    def referee(self, *arguments: str) -> str:
        """A command on the machine with its GPUs."""
        command = [*self._start, str(REFEREE), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self) -> list[tuple[str, float, float]]:
        """Run the campaign; which GPU each had, from when to when."""
        self.referee("submissions", "import", "submissions.csv")
        self.referee("run", "--phase", "private_test")
        status = as_json(self.folder, "status", "--phase", "private_test")
        assert status["verdicts"] == {"ok": 3}
        found = []
        for log in (self.folder / ".referee/objects/results").glob("*/log.txt"):
            words = log.read_text().split()
            assert words[0] == "had", words
            found.append((words[1], float(words[2]), float(words[3])))
        assert not any(leftovers(self.folder).values()), leftovers(self.folder)
        return found


def together(held: list[tuple[str, float, float]]) -> int:
    """How many pairs had the same GPU at the same time."""
    return sum(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a, b in combinations(held, 2))


def test_each_gpu_is_given_to_one_submission_at_a_time(tmp_path: Path) -> None:
    held = Machine(tmp_path, gpus=2).run()
    assert sorted({gpu for gpu, _, _ in held}) == ["0", "1"]  # one each, and both are used
    assert together(held) == 0


def test_a_gpu_is_shared_where_the_challenge_says_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpus=1, limits="gpu_sharing = 2")
    held = machine.run()
    assert {gpu for gpu, _, _ in held} == {"0"}
    assert 1 <= together(held) <= 2  # never all three at once


def test_without_a_gpu_they_are_unroutable_and_the_reason_is_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpus=0)
    machine.referee("submissions", "import", "submissions.csv")
    machine.referee("run", "--phase", "private_test")
    assert as_json(machine.folder, "status", "--phase", "private_test")["verdicts"] == {"unroutable": 3}
    assert "0 GPUs" in referee(machine.folder, "ledger", "events")
