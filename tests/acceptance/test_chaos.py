"""The controller is killed at random moments of a campaign of real containers, again and again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest

from board_world import REFEREE, copy_challenge, leftovers, make_challenge, referee

pytestmark = pytest.mark.containers

KILLS = 50


@pytest.mark.timeout(900)
def test_the_board_of_a_campaign_killed_again_and_again_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    folder = make_challenge(tmp_path / "challenge")
    referee(folder, "submissions", "import", "submissions.csv")
    referee(folder, "doctor")  # the proof of this machine's sandbox is not what is tested here
    calm = copy_challenge(folder, tmp_path / "calm")
    referee(calm, "run", "--phase", "private_test")
    referee(calm, "score")
    undisturbed = referee(calm, "leaderboard", "--json")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kills = 0
    while kills < KILLS:
        stormy = copy_challenge(folder, tmp_path / f"stormy-{kills}")
        kills += run_and_kill(stormy, chance)
        referee(stormy, "score")
        referee(stormy, "ledger", "verify")
        assert referee(stormy, "leaderboard", "--json") == undisturbed
        assert_nothing_happened_twice(stormy)
        assert not any(leftovers(stormy).values()), leftovers(stormy)


def run_and_kill(folder: Path, chance: random.Random) -> int:
    """Run the campaign to its end, SIGKILLing its controller at random moments; how often it was killed."""
    kills = 0
    while True:
        with subprocess.Popen(
            [REFEREE, "run", "--phase", "private_test"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as run:
            try:
                status = run.wait(timeout=chance.uniform(0.5, 3.0))
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                kills += 1
                continue
        assert status == 0, f"a run ended with {status} after {kills} kills"
        return kills


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
