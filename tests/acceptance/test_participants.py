"""What a participant does at home: check a prediction file, try an image; and what operators mistype."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from board_world import ITEMS, REFEREE, busybox_image, leftovers, make_challenge, predicting, referee

GOOD = "filename,label\n" + "".join(f"{item},0.5\n" for item in ITEMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_challenge(tmp_path_factory.mktemp("participant") / "challenge", {"half": (predicting("0.5"), "ok")})


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([REFEREE, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_check_says_yes_with_status_0(folder: Path) -> None:
    (folder / "good.csv").write_text(GOOD)
    assert run(folder, "check", "good.csv", "--phase", "public_test").returncode == 0
    assert json.loads(referee(folder, "check", "good.csv", "--json"))["rows"] == len(ITEMS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("0.5", "nan", 1), "Row 2"),
        (GOOD.replace("clip-3.mp4,0.5\n", ""), "clip-3.mp4"),
        (GOOD + "clip-0.mp4,0.5\n", "Row 8"),
        (GOOD.replace("filename,label", "file,label"), "header"),
        ("", "empty"),
    ],
)
def test_check_says_no_with_status_1_and_names_the_row(folder: Path, text: str, words: str) -> None:
    (folder / "bad.csv").write_text(text)
    done = run(folder, "check", "bad.csv", "--phase", "public_test")
    assert done.returncode == 1
    assert words in done.stderr
    assert run(folder, "check", "bad.csv", "--json").returncode == 1


@pytest.mark.containers
def test_try_runs_an_image_in_the_same_sandbox_and_shows_the_log(folder: Path) -> None:
    busybox_image(folder / "mine", "echo hello; " + predicting("0.9"))
    done = run(folder, "try", "oci:mine", "--phase", "public_test", "--keep", "kept")
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout
    assert "Verdict: ok" in done.stdout
    assert "Nearest limit" in done.stdout
    assert "log_loss" in done.stdout
    assert (folder / "kept" / "submission.csv").read_text().startswith("filename,label\nclip-0.mp4,0.9\n")
    assert not any(leftovers(folder).values()), leftovers(folder)


@pytest.mark.containers
@pytest.mark.parametrize(
    ("script", "verdict"),
    [("exit 3", "nonzero_exit"), ("while true; do :; done", "time_limit"), (predicting("7"), "invalid_predictions")],
)
def test_try_gives_the_verdict_of_the_campaign_with_status_1(folder: Path, script: str, verdict: str) -> None:
    busybox_image(folder / verdict, script)
    done = run(folder, "try", str(folder / verdict), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["result"]["verdict"] == verdict


@pytest.mark.containers
def test_a_log_cannot_steer_the_terminal(folder: Path) -> None:
    busybox_image(folder / "ansi", r"printf 'a\033[2Jb\007\r\n'; " + predicting("0.5"))
    assert "\x1b" not in run(folder, "try", "oci:ansi").stdout


WRONG = [
    (["run", "--phase", "nowhere"], 2, "There is no phase 'nowhere'"),
    (["run", "--phase", "private_test"], 5, "There is no ledger"),
    (["leaderboard"], 5, "There is no ledger"),
    (["leaderbord"], 2, "leaderbord"),
    (["run"], 2, "--phase"),
    (["status", "--nonsense"], 2, "--nonsense"),
    (["check", "missing.csv"], 2, "There is no file missing.csv"),
    (["try", "oci:missing"], 2, "missing"),
    (["try", "oci:images/0", "--phase", "private_test"], 2, "private phase"),
    (["submissions", "import", "missing.csv"], 2, "missing.csv"),
    (["status", "-C", "/nonexistent"], 2, "challenge.toml"),
]


@pytest.mark.parametrize(("arguments", "status", "words"), WRONG, ids=[" ".join(line) for line, _, _ in WRONG])
def test_a_mistake_gets_a_sentence_a_hint_and_its_exit_status(
    folder: Path, arguments: list[str], status: int, words: str
) -> None:
    done = run(folder, *arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) <= 4
