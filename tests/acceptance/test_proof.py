"""A machine proves its sandbox before its first attempt; what it cannot show stops the campaign, or is on the board.

The promise is broken by a runtime that gives sandboxes a host's name: harmless, and the product's own code is as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from board_world import REFEREE, as_json, leftovers, make_challenge, predicting, referee

pytestmark = pytest.mark.containers

RUNTIME = """#!{python}
import json, os, sys
if "--bundle" in sys.argv:
    place = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    facts = json.load(open(place)) | {{"hostname": "host-17"}}
    json.dump(facts, open(place, "w"))
os.execv({runc!r}, [{runc!r}, *sys.argv[1:]])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_challenge(tmp_path / "challenge", {"half": (predicting("0.5"), "ok")})
    referee(made, "submissions", "import", "submissions.csv")
    return made


@pytest.fixture
def talkative(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine whose runtime breaks a promise."""
    runc = shutil.which("runc")
    program = tmp_path / "bin/runc"
    program.parent.mkdir()
    program.write_text(RUNTIME.format(python=sys.executable, runc=runc))
    program.chmod(0o755)
    return dict(os.environ) | {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def run(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [REFEREE, "run", "--phase", "private_test", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_run_proves_its_machine_once(folder: Path) -> None:
    referee(folder, "run", "--phase", "public_test")
    proof = folder / ".referee/node/proofs/runc.json"
    first, made = json.loads(proof.read_text()), proof.stat().st_mtime_ns
    assert len(first["checks"]) >= 35
    assert all(check["held"] for check in first["checks"])
    assert first["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    referee(folder, "run", "--phase", "private_test")
    assert proof.stat().st_mtime_ns == made
    proof.write_text(proof.read_text().replace(first["boot_id"], "another boot").replace(first["key"], "another key"))
    (folder / "another.csv").write_text("submission,team,image,kind\nlate,team late,oci:images/0,cpu\n")
    referee(folder, "submissions", "import", "another.csv")
    referee(folder, "run", "--phase", "private_test")
    assert json.loads(proof.read_text())["key"] == first["key"]  # shown anew


def test_a_promise_that_cannot_be_shown_stops_the_campaign_or_is_accepted_by_name_on_the_record(
    folder: Path, talkative: dict[str, str]
) -> None:
    stopped = run(folder, talkative)
    assert stopped.returncode == 3
    assert "neutral_names" in stopped.stderr
    assert "--accept-risk neutral_names" in stopped.stderr
    assert as_json(folder, "status", "--phase", "private_test")["verdicts"].get("ok", 0) == 0
    assert not any(leftovers(folder).values()), leftovers(folder)

    accepted = run(folder, talkative, "--accept-risk", "neutral_names")
    assert accepted.returncode == 0, accepted.stderr
    referee(folder, "score")
    assert as_json(folder, "status", "--phase", "private_test")["accepted_risks"] == ["neutral_names"]
    assert "neutral_names" in referee(folder, "leaderboard")
    assert "neutral_names" in referee(folder, "leaderboard", "--markdown")
    assert as_json(folder, "leaderboard")["accepted_risks"] == ["neutral_names"]
    assert "neutral_names" in referee(folder, "ledger", "events")
    assert as_json(folder, "status", "--phase", "private_test")["verdicts"]["ok"] == 1
