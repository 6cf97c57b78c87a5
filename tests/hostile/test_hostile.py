"""Every attack once at the level `runc`, and those that end otherwise at `gvisor` there too (`make hostile`: all).

In a process of their own, which moves into a network namespace of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = sorted(place.parent.name for place in HERE.glob("*/attack.toml"))
DIFFERENT = [name for name in NAMES if "gvisor" in tomllib.loads((HERE / name / "attack.toml").read_text())]

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run(tmp_path_factory, "runc")


def run(tmp_path_factory: pytest.TempPathFactory, level: str, *names: str) -> dict[str, list[str]]:
    report = tmp_path_factory.mktemp("hostile") / "found.json"
    command = [sys.executable, str(HERE / "run.py"), *names, "--level", level, "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return {each["name"]: each["problems"] for each in json.loads(report.read_text(encoding="utf-8"))}


# The first one waits for all of them; each has its own limit of time.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_the_attack_holds(found: dict[str, list[str]], name: str) -> None:
    assert found[name] == []


@pytest.fixture(scope="module")
def found_at_gvisor(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run(tmp_path_factory, "gvisor", *DIFFERENT)


@pytest.mark.skipif(shutil.which("runsc") is None, reason="runsc (gVisor) is not installed")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DIFFERENT)
def test_an_attack_that_ends_otherwise_at_gvisor_holds_there(found_at_gvisor: dict[str, list[str]], name: str) -> None:
    assert found_at_gvisor[name] == []


def test_what_an_attack_expects_at_gvisor_has_its_reason_in_the_documentation() -> None:
    said = subprocess.run(
        [sys.executable, str(HERE / "run.py"), "--differences"], capture_output=True, text=True, check=True
    ).stdout
    assert said.count("\n") == len(DIFFERENT) + 2
    assert said in (HERE.parents[1] / "docs/security.md").read_text(encoding="utf-8")


def test_only_an_attack_that_says_why_may_be_answered_by_the_sentry() -> None:
    programs = [place for place in HERE.glob("*/*.py") if "escaped_at_runc" in place.read_text(encoding="utf-8")]
    assert {place.parent.name for place in programs} - {"inside"} <= set(DIFFERENT)


def test_every_row_of_the_catalogue_that_a_container_can_try_has_an_attack_that_notices_a_missing_defence() -> None:
    declared = [tomllib.loads((HERE / name / "attack.toml").read_text()) for name in NAMES]
    rows = {row for attack in declared if attack.get("defended_by") for row in attack.get("rows", ())}
    # 45 (probing by scores) is a matter of the leaderboard: tests/unit/test_scoring_*.py.
    assert rows >= {*range(1, 16), 17, 18, 19, 21, 22, 24, 25, 26, 28, 29, *range(31, 33), *range(34, 41), 42, 43, 47}
