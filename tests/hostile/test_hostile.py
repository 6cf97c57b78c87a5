"""Every attack once at the level `runc`, in a process of its own: it moves into a network namespace of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = sorted(place.parent.name for place in HERE.glob("*/attack.toml"))

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    report = tmp_path_factory.mktemp("hostile") / "found.json"
    command = [sys.executable, str(HERE / "run.py"), "--level", "runc", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return {each["name"]: each["problems"] for each in json.loads(report.read_text(encoding="utf-8"))}


# The first one waits for all of them; each has its own limit of time.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_the_attack_holds(found: dict[str, list[str]], name: str) -> None:
    assert found[name] == []


def test_there_are_attacks_for_every_row_of_the_catalogue_that_a_container_can_try() -> None:

    rows = {row for name in NAMES for row in tomllib.loads((HERE / name / "attack.toml").read_text()).get("rows", ())}
    # 45 (probing by scores) is a matter of the leaderboard: tests/unit/test_scoring_*.py.
    assert rows >= {*range(1, 16), 17, 18, 19, 21, 22, 24, 25, 26, 28, 29, *range(31, 33), *range(34, 41), 42, 43, 47}
