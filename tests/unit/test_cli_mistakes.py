"""What a person can mend ends in a sentence and a documented status, and `--json` prints JSON and nothing else."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from audit_world import make_campaign, named, opened
from referee.challenge import MetricChoice
from referee.cli import main, screen
from referee.cli.participants import _scores
from referee.errors import ConfigurationError
from referee.ledger import Identity, SubmissionRefused
from referee.predictions import Labels

PHASE = "private_test"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_campaign(tmp_path_factory.mktemp("finished") / "challenge", submissions=3)
    text = (folder / "challenge.toml").read_text()
    later = '[phases.later]\ndata = "data/public_test"\nlabels = "labels/public_test.csv"\nvisibility = "public"\n'
    (folder / "challenge.toml").write_text(text.replace("[phases.private_test]", later + "[phases.private_test]"))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "challenge")


MISTAKES = [
    (["report", "--no-analysis", "-o", "/nowhere/report.html"], 3, "/nowhere/report.html"),
    (["report", "--phase", "later"], 2, "Nothing was evaluated on later yet."),
    (["analyse", "--phase", "later"], 2, "Nothing was evaluated on later yet."),
    (["bundle", "."], 2, "is a folder"),
    (["bundle", "/"], 2, "is a folder"),
    (["leaderboard", "--json", "--csv"], 2, "one of --json, --csv and --markdown"),
    (["rejudge", "stage", "--all", "--rerun", "--wall-time", "half an hour"], 2, "40s, 30m or 2h"),
]


@pytest.mark.parametrize(("words", "status", "said"), MISTAKES, ids=[" ".join(words) for words, _, _ in MISTAKES])
def test_a_mistake_is_a_sentence_with_its_status(
    folder: Path, words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--challenge", str(folder)]) == status
    shown = capsys.readouterr()
    assert said in " ".join(shown.err.split())
    assert shown.out == ""


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", str(tmp_path / "file" / "below")]) == 3
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_key_longer_than_any_file_s_name_is_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "no.tar"), "--key", "a" * 300]) == 2
    assert "is not an Ed25519 public key" in capsys.readouterr().err


def test_an_empty_folder_takes_what_is_handed_back_whatever_it_is_called(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["export", "kaggle", ".", "--challenge", str(folder)]) == 0
    assert (tmp_path / "empty" / "manifest.csv").is_file()


def test_the_end_of_the_input_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", ended)
    with pytest.raises(ConfigurationError, match="Nothing was started"):
        screen.confirm("Start?", yes=False)


def test_a_metric_that_is_undefined_on_the_labels_is_no_score(folder: Path) -> None:
    workspace, ledger = opened(folder)
    ledger.close()
    choice = MetricChoice(secondary=("roc_auc",))
    challenge = workspace.challenge.model_copy(update={"metric": choice})
    labels = Labels(("a", "b"), array("d", [1.0, 1.0]), "sha256:")
    scores = _scores(challenge, labels, b"filename,label\na,0.5\nb,0.5\n")
    assert set(scores) == {"log_loss"}


def test_a_refused_submission_is_on_the_board_and_can_be_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who = Identity.new("s-00000a", "t-a", "refused", "Team a")
    event = SubmissionRefused(
        submission=who.submission,
        team=who.team,
        submission_kind="cpu",
        reason="it is too large",
        identity_commitment=who.commitment,
    )
    with opened(folder)[1] as ledger:
        ledger.append([event], identities=[who])
    assert main(["show", "s-00000a", "--challenge", str(folder)]) == 0
    assert "refused at import: it is too large" in capsys.readouterr().out
    assert main(["show", "s-00000a", "--json", "--challenge", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == "it is too large"


def test_names_beyond_an_output_s_encoding_are_escaped(folder: Path) -> None:
    event, who = named(50, "Ünïcode 日本")
    with opened(folder)[1] as ledger:
        ledger.append([event], identities=[who])

    def printed(*words: str) -> bytes:
        command = [Path(sys.executable).with_name("referee"), *words, "--unblind"]
        environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
        return subprocess.run(command, cwd=folder, capture_output=True, check=True, env=environment).stdout

    assert "Ünïcode 日本" in {row["name"] for row in json.loads(printed("submissions", "list", "--json"))}
    assert b"\\u65e5" in printed("submissions", "list")


def test_an_unblinded_board_names_every_team(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ruling", "disqualify", "s-000001", "--reason", "copied", "--challenge", str(folder)]) == 0
    capsys.readouterr()
    assert main(["leaderboard", "--unblind", "--challenge", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert {f"t-{number} (Team {number})" in shown for number in (0, 1)} == {True}
    assert "s-000001 (entry 0)" in shown
    assert "s-000009 (entry 3)" in shown.replace("\n", "")


def test_show_tells_a_script_of_rulings_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ruling", "disqualify", "s-000001", "--reason", "copied", "--challenge", str(folder)]) == 0
    capsys.readouterr()
    assert main(["show", "s-000001", "--json", "--challenge", str(folder)]) == 0
    (ruling,) = json.loads(capsys.readouterr().out)["rulings"]
    assert (ruling["ruling"], ruling["reason"]) == ("disqualify", "copied")
