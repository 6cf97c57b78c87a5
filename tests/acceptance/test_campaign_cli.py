"""A whole campaign through the command line, on real containers."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from board_world import ITEMS, REFEREE, SUBMISSIONS, as_json, copy_challenge, leftovers, make_challenge, referee
from referee.ledger import Ledger

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_challenge(tmp_path_factory.mktemp("acceptance") / "challenge")
    referee(folder, "submissions", "import", "submissions.csv")
    return folder


@pytest.fixture(scope="module")
def finished(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_challenge(imported, tmp_path_factory.mktemp("finished") / "challenge")
    referee(folder, "run", "--phase", "public_test")
    referee(folder, "run", "--phase", "private_test")
    referee(folder, "score")
    return folder


def names(folder: Path) -> dict[str, str]:
    return {row["submission"]: row["name"] for row in as_json(folder, "submissions", "list", "--unblind")}


def test_every_submission_gets_the_verdict_that_is_true(finished: Path) -> None:
    board = as_json(finished, "leaderboard")
    found = {row["submission"]: "ok" for row in board["rows"]}
    found |= {row["submission"]: row["verdict"] for row in board["unscored"]}
    true = {name: verdict for name, (_, verdict) in SUBMISSIONS.items()} | {"wants a gpu": "unroutable"}
    blind = names(finished)
    assert {blind[submission]: verdict for submission, verdict in found.items()} == true


def test_scores_are_those_of_scikit_learn(finished: Path) -> None:
    blind = names(finished)
    values = {"half": 0.5, "good": 0.7, "good again": 0.7, "better": 0.75, "sure": 1.0, "slow": 0.6}
    labels = np.array([int(number != 0) for number in range(len(ITEMS))])
    for row in as_json(finished, "leaderboard")["rows"]:
        predictions = np.clip(np.full(len(ITEMS), values[blind[row["submission"]]]), 1e-15, 1 - 1e-15)
        assert row["score"] == pytest.approx(log_loss(labels, predictions), rel=0, abs=1e-12)


def test_the_board_shares_ranks_and_shows_the_public_one_beside(finished: Path) -> None:
    board = as_json(finished, "leaderboard")
    assert board["phase"] == "private_test"
    assert [row["rank"] for row in board["rows"]] == [1, 2, 2, 4, 5, 6]
    assert {row["submission"] for row in board["rows"] if row["rank"] == 2} <= set(names(finished))
    assert board["public_phase"] == "public_test"
    assert all(row["public"]["rank"] == row["rank"] for row in board["rows"])
    assert board["complete"]


def test_status_counts_everything(finished: Path) -> None:
    status = as_json(finished, "status", "--phase", "private_test")
    assert (status["total"], status["done"], status["running"], status["waiting"]) == (15, 15, 0, 0)
    assert sum(status["verdicts"].values()) == 15


def test_what_has_ended_is_neither_run_nor_scored_again(finished: Path) -> None:
    before = referee(finished, "ledger", "events", "--json")
    referee(finished, "run", "--phase", "private_test")
    counts = as_json(finished, "score")["private_test"]
    assert counts["scored"] == 0
    after = referee(finished, "ledger", "events", "--json")[len(before) :]
    assert {json.loads(line)["kind"] for line in after.splitlines()} == {"controller.started", "controller.stopped"}


def test_the_ledger_verifies_and_nothing_is_left_behind(finished: Path) -> None:
    referee(finished, "ledger", "verify")
    assert not any(leftovers(finished).values()), leftovers(finished)


def test_no_name_is_shown_unless_asked_for_and_asking_is_recorded(imported: Path, tmp_path: Path) -> None:
    folder = copy_challenge(imported, tmp_path / "challenge")
    shown = referee(folder, "submissions", "list") + referee(folder, "ledger", "events")
    assert not any(name in shown for name in ("eats memory", "team 3"))
    assert "eats memory" in referee(folder, "submissions", "list", "--unblind")
    assert "identities.unblinded" in referee(folder, "ledger", "events")


@pytest.mark.parametrize("presses", [1, 2])
def test_control_c_is_safe_and_the_next_run_goes_on(imported: Path, tmp_path: Path, presses: int) -> None:
    folder = copy_challenge(imported, tmp_path / "challenge")
    with subprocess.Popen(
        [REFEREE, "run", "--phase", "private_test"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        _until_something_runs(folder)
        for _ in range(presses):
            run.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert run.wait(timeout=60) == 130
    assert not any(leftovers(folder).values()), leftovers(folder)
    assert as_json(folder, "status")["waiting"] > 0
    referee(folder, "run", "--phase", "private_test")
    status = as_json(folder, "status", "--phase", "private_test")
    assert status["done"] == status["total"]
    assert "cancelled" not in status["verdicts"]


def test_a_second_controller_is_refused_with_a_sentence(imported: Path, tmp_path: Path) -> None:
    folder = copy_challenge(imported, tmp_path / "challenge")
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger, ledger.lead():
        command = [REFEREE, "run", "--phase", "private_test"]
        second = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert second.returncode == 4
    assert "Another controller is at work" in second.stderr
    assert "Traceback" not in second.stderr


def _until_something_runs(folder: Path) -> None:
    for _ in range(200):
        status = subprocess.run([REFEREE, "status", "--json"], cwd=folder, capture_output=True, text=True, check=False)
        if status.returncode == 0 and json.loads(status.stdout)["running"]:
            return
        time.sleep(0.1)
    raise AssertionError("nothing ever ran")
