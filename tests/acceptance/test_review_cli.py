"""Rulings, rejudging, reproduction and confirmation through the command line, on real containers."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from board_world import ITEMS, copy_challenge, leftovers, make_challenge, predicting
from board_world import referee as referee_process
from referee.cli import main

pytestmark = pytest.mark.containers

# The shell's own clock in hundredths of a second never gives the same value twice.
DRIFTING = "read now rest < /proc/uptime; " + predicting("0.6${now%.*}${now#*.}")
SUBMISSIONS = {
    "good": (predicting("0.7"), "ok"),
    "better": (predicting("0.75"), "ok"),
    "drifting": (DRIFTING, "ok"),
    "slow": (predicting("0.8", "4"), "time_limit"),
    "exits": ("exit 3", "nonzero_exit"),
}


def true_score(value: float) -> float:
    labels = [int(number != 0) for number in range(len(ITEMS))]
    return float(log_loss(labels, np.full(len(ITEMS), value)))


# What the competition is said to have published: the truth for one, too good for another.
PUBLISHED = {"good": true_score(0.7), "better": true_score(0.75) - 0.2, "drifting": true_score(0.61)}


# What starts containers runs as a process of its own; all other commands in this one, which saves a second each.
PROCESSES = {"run", "confirm", "submissions"}


def call(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*arguments, "--challenge", str(folder)])
    return status, out.getvalue(), err.getvalue()


def referee(folder: Path, *arguments: str) -> str:
    """Run a command that must succeed; its standard output."""
    if arguments[0] in PROCESSES or {"--rerun", "--again"} & set(arguments):
        return referee_process(folder, *arguments)
    status, out, err = call(folder, *arguments)
    assert status == 0, f"referee {arguments} ended with {status}:\n{out}\n{err}"
    return out


def as_json(folder: Path, *arguments: str) -> Any:
    return json.loads(referee(folder, *arguments, "--json"))


def refused(folder: Path, *arguments: str) -> str:
    """What a command that must not work says."""
    status, _, err = call(folder, *arguments)
    assert status == 2, err
    assert "Traceback" not in err
    return " ".join(err.split())


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "challenge.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def blind_ids(folder: Path) -> dict[str, str]:
    return {row["name"]: row["submission"] for row in as_json(folder, "submissions", "list", "--unblind")}


def board_bytes(folder: Path, phase: str = "private_test") -> bytes:
    return referee(folder, "leaderboard", "--phase", phase, "--json").encode()


def kinds(folder: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in referee(folder, "ledger", "events", "--json").splitlines()]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_challenge(tmp_path_factory.mktemp("review") / "challenge", SUBMISSIONS)
    rows = list(csv.DictReader(io.StringIO((folder / "submissions.csv").read_text())))
    with (folder / "submissions.csv").open("w") as file:
        writer = csv.DictWriter(file, [*rows[0], "public_score"])
        writer.writeheader()
        writer.writerows(row | {"public_score": PUBLISHED.get(row["submission"], "")} for row in rows)
    referee(folder, "submissions", "import", "submissions.csv")
    referee(folder, "run", "--phase", "public_test")
    return folder


@pytest.fixture(scope="module")
def finished(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_challenge(imported, tmp_path_factory.mktemp("finished") / "challenge")
    referee(folder, "run", "--phase", "private_test")
    referee(folder, "score")
    return folder


@pytest.fixture
def challenge(finished: Path, tmp_path: Path) -> Path:
    return copy_challenge(finished, tmp_path / "challenge")


def test_a_ruling_reranks_and_is_shown_everywhere_with_its_reason(challenge: Path) -> None:
    blind = blind_ids(challenge)
    before = as_json(challenge, "leaderboard")
    assert [row["submission"] for row in before["rows"]] == [blind["better"], blind["good"], blind["drifting"]]
    assert "names is understood" not in refused(challenge, "ruling", "disqualify", "better", "--reason", "x")
    assert "needs a reason" in refused(challenge, "ruling", "disqualify", blind["better"], "--reason", " ")
    referee(challenge, "ruling", "disqualify", "better", "--unblind", "--reason", "used the test faces")
    assert "already" in refused(challenge, "ruling", "disqualify", blind["better"], "--reason", "x")
    assert "stands" in refused(challenge, "ruling", "reinstate", blind["good"], "--reason", "x")
    board = as_json(challenge, "leaderboard")
    assert [(row["rank"], row["submission"]) for row in board["rows"]] == [(1, blind["good"]), (2, blind["drifting"])]
    assert [(off["submission"], off["ruling"], off["reason"]) for off in board["ruled"]] == [
        (blind["better"], "disqualify", "used the test faces")
    ]
    referee(challenge, "report")
    for text in (
        referee(challenge, "leaderboard"),
        referee(challenge, "leaderboard", "--csv"),
        referee(challenge, "leaderboard", "--markdown"),
        (challenge / "report.html").read_text(),
    ):
        assert "used the test faces" in text
        assert "disqualified" in text
    standings = as_json(challenge, "analyse")["standings"]
    assert blind["better"] not in {entry["entry"] for entry in standings["entries"]}
    referee(challenge, "ruling", "reinstate", blind["better"], "--reason", "they were public")
    again = as_json(challenge, "leaderboard")
    assert again == before
    assert [row["ruling"] for row in as_json(challenge, "ruling", "list")] == ["disqualify", "reinstate"]
    referee(challenge, "ledger", "verify")


@pytest.mark.parametrize("what", ["labels", "metric"])
def test_changed_labels_or_metrics_are_staged_and_change_nothing_before_they_are_applied(
    challenge: Path, what: str
) -> None:
    before = board_bytes(challenge)
    if what == "metric":
        change(challenge, '[metric]\nsecondary = ["brier"]', '[metric]\nname = "brier"\nepsilon = 0.1')
    else:
        labels = challenge / "labels" / "private_test.csv"
        lines = labels.read_text().splitlines()
        flipped = [f"{line.split(',')[0]},{1 - int(line.split(',')[1])}" for line in lines[1:]]
        labels.write_text("\n".join([lines[0], *flipped]) + "\n")
    said = refused(challenge, "score", "--phase", "private_test")
    assert "Nothing was scored" in said
    assert "referee rejudge stage --phase private_test --all --rescore" in said
    assert board_bytes(challenge) == before
    referee(challenge, "report")  # from the labels and metrics that stand
    part = ("--submission", json.loads(before)["rows"][0]["submission"])
    assert "two kinds" in refused(challenge, "rejudge", "stage", "--rescore", *part)
    shown = as_json(challenge, "rejudge", "stage", "--rescore", "--all")
    assert shown["changes"]
    assert board_bytes(challenge) == before
    assert "staged already" in refused(challenge, "rejudge", "stage", "--rescore", "--all")
    referee(challenge, "rejudge", "cancel", "--reason", "a second look")
    assert board_bytes(challenge) == before
    assert "No rejudging is staged" in refused(challenge, "rejudge", "apply", "--reason", "x")
    referee(challenge, "rejudge", "stage", "--rescore", "--all")
    assert as_json(challenge, "rejudge", "show")["after"] == shown["after"]
    referee(challenge, "rejudge", "apply", "--reason", "announced on Monday")
    after = board_bytes(challenge)
    assert shown["before"] == "sha256:" + hashlib.sha256(before).hexdigest()
    assert shown["after"] == "sha256:" + hashlib.sha256(after).hexdigest()
    ranks = {row["submission"]: row["rank"] for row in json.loads(after)["rows"]}
    assert {one["submission"]: one["rank"][1] for one in shown["changes"]}.items() <= ranks.items()
    assert as_json(challenge, "score", "--phase", "private_test")["private_test"]["scored"] == 0
    assert [row["state"] for row in as_json(challenge, "rejudge", "list")] == ["cancelled", "applied"]
    referee(challenge, "report")
    assert "announced on Monday" in (challenge / "report.html").read_text()
    referee(challenge, "ledger", "verify")


def test_new_attempts_under_another_limit_count_only_once_they_are_applied(challenge: Path) -> None:
    blind = blind_ids(challenge)
    before = board_bytes(challenge)
    assert "either --all, or conditions" in refused(challenge, "rejudge", "stage", "--rerun")
    assert "either --rerun or --rescore" in refused(challenge, "rejudge", "stage", "--all")
    assert "Write 40s" in refused(challenge, "rejudge", "stage", "--rerun", "--all", "--wall-time", "soon")
    assert "Nothing on" in refused(challenge, "rejudge", "stage", "--rerun", "--verdict", "memory_limit")
    chosen = ("--rerun", "--verdict", "time_limit", "--wall-time", "60s")
    shown = as_json(challenge, "rejudge", "stage", *chosen)
    assert shown["submissions"] == [blind["slow"]]
    (moved,) = (one for one in shown["changes"] if one["submission"] == blind["slow"])
    assert moved["verdict"] == ["time_limit", "ok"]
    assert moved["rank"] == [None, 1]
    assert board_bytes(challenge) == before
    assert as_json(challenge, "status", "--phase", "private_test")["verdicts"]["time_limit"] == 1
    assert "Staged: rejudging-1" in referee(challenge, "status")
    referee(challenge, "rejudge", "apply", "--reason", "the limit was announced as a minute")
    board = as_json(challenge, "leaderboard")
    assert board["rows"][0]["submission"] == blind["slow"]
    assert board["rows"][0]["score"] == pytest.approx(true_score(0.8), abs=1e-12)
    assert "further run rejudging-1" in referee(challenge, "show", blind["slow"])
    referee(challenge, "analyse")
    referee(challenge, "report")
    referee(challenge, "ledger", "verify")
    referee(challenge, "ledger", "rebuild")
    assert as_json(challenge, "leaderboard") == board
    assert not any(leftovers(challenge).values()), leftovers(challenge)


def by_name(folder: Path, found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    blind = blind_ids(folder)
    outcomes = {one["submission"]: (one["outcome"], one["cause"]) for one in found["submissions"]}
    return {name: outcomes[submission] for name, submission in blind.items() if submission in outcomes}


def test_a_rerun_is_compared_with_what_was_published_and_a_second_run_tells_why(challenge: Path) -> None:
    first = by_name(challenge, as_json(challenge, "reproduce", "--phase", "public_test"))
    assert first["good"] == ("reproduced_exactly", "none")
    assert first["better"] == ("different", "unknown")
    assert first["exits"] == ("failed", "submission")
    assert first["wants a gpu"] == ("failed", "host")
    assert "is private" in refused(challenge, "reproduce", "--phase", "private_test")
    found = as_json(challenge, "reproduce", "--again")
    assert by_name(challenge, found)["drifting"][1] == "nondeterminism"
    (better,) = (one for one in found["submissions"] if one["submission"] == blind_ids(challenge)["better"])
    assert better["run_to_run"] == 0.0
    assert "agree with each other" in better["explanation"]
    assert found["rate"]["rerun"] == 3
    table = challenge / "published.csv"
    table.write_text(f"submission,score\nbetter,{true_score(0.75):.5f}\n")
    again = by_name(challenge, as_json(challenge, "reproduce", "--recorded", str(table)))
    assert again["better"] == ("reproduced_exactly", "none")
    assert again["good"] == ("nothing_recorded", "none")
    assert "submission.reproduced" in kinds(challenge)
    referee(challenge, "report")
    assert "<h2>Reproduction</h2>" in (challenge / "report.html").read_text()
    referee(challenge, "ledger", "verify")


def test_private_time_is_spent_only_on_what_reproduces_or_is_admitted(imported: Path, tmp_path: Path) -> None:
    challenge = copy_challenge(imported, tmp_path / "challenge")
    blind = blind_ids(challenge)
    change(challenge, "[limits]\n", "[reproduction]\nrequired = true\ntolerance = 0.1\n[limits]\n")
    assert "referee reproduce" in refused(challenge, "run", "--phase", "private_test")
    referee(challenge, "reproduce")
    said = referee(challenge, "run", "--phase", "private_test")
    assert "did not reproduce" in said
    referee(challenge, "score", "--phase", "private_test")
    board = as_json(challenge, "leaderboard")
    assert {row["submission"] for row in board["rows"]} == {blind["good"], blind["drifting"]}
    held = {one["submission"]: one["reason"] for one in board["unscored"]}
    assert "It did not reproduce on public_test" in held[blind["better"]]
    assert "It could not be re-run on public_test" in held[blind["exits"]]
    assert blind["better"] in referee(challenge, "status")
    referee(challenge, "ruling", "admit", blind["better"], "--reason", "the published score was a slip of the host")
    assert "already" in refused(challenge, "ruling", "admit", blind["better"], "--reason", "x")
    referee(challenge, "run", "--phase", "private_test")
    referee(challenge, "score", "--phase", "private_test")
    assert as_json(challenge, "leaderboard")["rows"][0]["submission"] == blind["better"]
    referee(challenge, "ledger", "verify")


def test_the_prize_zone_is_run_again_and_no_score_changes(challenge: Path) -> None:
    blind = blind_ids(challenge)
    before = board_bytes(challenge)
    found = as_json(challenge, "confirm", "--top", "2")
    assert found["confirmed"]
    assert [run["submission"] for run in found["runs"]] == sorted([blind["good"], blind["better"]] * 3)
    assert all(run["same_predictions"] for run in found["runs"])
    assert {run["rank"] for run in found["runs"] if run["submission"] == blind["better"]} == {1}
    said = referee_process(challenge, "confirm", "--top", "3", "--runs", "1", status=1)
    assert "2 of 3 further runs gave the very same predictions" in said
    assert "All ran on the one machine" in said
    assert board_bytes(challenge) == before
    assert kinds(challenge).count("confirmation.recorded") == 2
    referee(challenge, "ledger", "verify")
