"""Campaigns while things break, judged from outside: the short proof of `make chaos`, and a controller that dies."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from board_world import REFEREE, SUBMISSIONS, copy_challenge, leftovers, make_challenge, referee

# The time is that of many commands on a busy machine.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
FAULTS, KINDS = 18, 12
CAMPAIGNS, KILLS = 1, 6
FEW = {name: SUBMISSIONS[name] for name in ("half", "better", "slow", "exits", "endless", "eats memory", "nan")}


def test_under_random_faults_no_evaluation_is_lost_duplicated_or_misbilled() -> None:
    """On the simulated engine (real ledgers and object stores) and in real containers; `make chaos` has the rest."""
    command = [sys.executable, ROOT / "benchmarks" / "chaos.py", "--engines", "memory,local", "--faults", str(FAULTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    found = re.fullmatch(r"(\d+) faults of (\d+) kinds, 0 lost, 0 duplicated, 0 mis-billed", last)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found is not None, last
    assert int(found[1]) >= FAULTS
    assert int(found[2]) >= KINDS


def test_the_board_of_a_campaign_killed_again_and_again_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    """Its controller's death costs no attempt: it is no fault of any host. The benchmark kills more often."""
    folder = make_challenge(tmp_path / "challenge", FEW)
    referee(folder, "submissions", "import", "submissions.csv")
    referee(folder, "doctor")  # the proof of this machine's sandbox is not what is tested here
    calm = copy_challenge(folder, tmp_path / "calm")
    referee(calm, "run", "--phase", "private_test")
    referee(calm, "score")
    undisturbed = referee(calm, "leaderboard", "--json")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for campaign in range(CAMPAIGNS):
        stormy = copy_challenge(folder, tmp_path / f"stormy-{campaign}")
        run_and_kill(stormy, chance)
        referee(stormy, "score")
        referee(stormy, "ledger", "verify")
        assert referee(stormy, "leaderboard", "--json") == undisturbed
        assert_nothing_happened_twice(stormy)
        assert not any(leftovers(stormy).values()), leftovers(stormy)


def run_and_kill(folder: Path, chance: random.Random) -> None:
    """Run the campaign to its end, after its controller was SIGKILLed at random moments, as often as it could be."""
    patience = [*(chance.uniform(0.5, 3.0) for _ in range(KILLS)), None]  # the last one has all the time it needs
    for seconds in patience:
        with subprocess.Popen(
            [REFEREE, "run", "--phase", "private_test"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as run:
            try:
                status = run.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                continue
        assert status == 0
        return


def assert_nothing_happened_twice(folder: Path) -> None:
    events = [json.loads(line) for line in referee(folder, "ledger", "events", "--json").splitlines()]
    for kind, key in (
        ("attempt.ended", "attempt"),
        ("evaluation.ended", "evaluation"),
        ("evaluation.scored", "evaluation"),
    ):
        names = [event["payload"][key] for event in events if event["kind"] == kind]
        assert len(names) == len(set(names)), kind
    # One attempt each: a controller's death is no fault of any host, so none was spent on it.
    assert all(event["payload"]["number"] == 1 for event in events if event["kind"] == "attempt.planned")
