"""Kaggle's leaderboard comes in, and prediction files go back, as they are."""

from __future__ import annotations

import csv
import hashlib
import json
import stat
import tracemalloc
from pathlib import Path

import pytest

from audit_world import FAILED, make_campaign, opened
from referee.cli import main
from referee.errors import CheckFailedError, ConfigurationError, LedgerError
from referee.kaggle import match, read_leaderboard
from referee.ledger import PublicBoardRecorded, PublicStanding, queries
from referee.publication import hand_back, record_public_board

NEW = """Rank,TeamId,TeamName,LastSubmissionDate,Score,SubmissionCount,TeamMemberUserNames
1,4141,Selim,2020-03-30 22:18:14,0.20336,2,"one,two"
2,4142,"Comma, Inc.",2020-03-31 20:00:00,0.20900,7,three
"""
OLD = """TeamId,TeamName,SubmissionDate,Score
7,Late,2020-01-02 00:00:00,0.5
7,Late,2020-02-02 00:00:00,0.4
8,Tied,2020-01-01 00:00:00,0.4
9,Last,2020-01-01 00:00:00,0.9
"""


def board(folder: Path, text: str, *, greater: bool = False):
    path = folder / "leaderboard.csv"
    path.write_text(text, encoding="utf-8-sig")
    return read_leaderboard(path, greater_is_better=greater)


def test_the_newer_export_is_read_with_its_ranks(tmp_path: Path) -> None:
    found = board(tmp_path, NEW)
    assert found.teams == 2
    assert (found.standings["Comma, Inc."].score, found.standings["Comma, Inc."].rank) == (0.209, 2)
    assert found.standings["4141"] == found.standings["Selim"]


def test_of_the_older_one_the_latest_row_counts_and_ranks_follow_with_ties(tmp_path: Path) -> None:
    found = board(tmp_path, OLD)
    ranks = {name: found.standings[name].rank for name in ("Late", "Tied", "Last")}
    assert ranks == {"Late": 1, "Tied": 1, "Last": 3}
    assert board(tmp_path, OLD, greater=True).standings["Last"].rank == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must have the column TeamName"),
        ("Team,Score\nA,1\n", "must have the column TeamName"),
        ("TeamName,Score,Score\nA,1,2\n", "the column Score once"),
        ("TeamName,Score\nA,nan\n", "no finite number"),
        ("TeamName,Score\nA,\n", "no finite number"),
        ("TeamName,Score\nA,1_0\n", "no finite number"),
        ("TeamName,Score\nA\n", "row 2 has 1 cells"),
        ("TeamName,Score\nA,1\nA,2\n", "there twice"),
        ("Rank,TeamName,Score\n0,A,1\n", "is no rank"),
        ("Rank,TeamName,Score\n-1,A,1\n", "is no rank"),
        ("Rank,TeamName,Score\n" + "1" * 5000 + ",A,1\n", "is no rank"),
        ("Rank,TeamName,Score\n1000000000,A,1\n", "is no rank"),
        ("TeamName,Score\nA," + "9" * 400 + "\n", "no finite number"),
        ("TeamName,Score\n" + "A" * 200_000 + ",1\n", "not CSV"),
        ("x," * 100_000 + "\n", "must have the column TeamName"),
        ('TeamName,Score\n"A,1\n', "not CSV"),
    ],
)
def test_what_is_no_leaderboard_is_refused_with_the_row(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        board(tmp_path, text)


def test_a_file_of_blank_rows_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    path.write_bytes(b"TeamName,Score\n" + b"\n" * (1 << 20) + b"A,1\n")
    tracemalloc.start()
    assert read_leaderboard(path, greater_is_better=False).teams == 1
    assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    tracemalloc.stop()
    path.write_bytes(b"," * (16 * 2**20 + 1))
    with pytest.raises(ConfigurationError, match="larger than 16 MiB"):
        read_leaderboard(path, greater_is_better=False)


def test_escapes_in_it_do_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_campaign(tmp_path / "challenge", submissions=1, score=False)
    hostile = "\x1b]0;owned\x07\u009b31m\u202e"
    (tmp_path / "leaderboard.csv").write_text(f"{hostile},Score\n", encoding="utf-8")
    (folder / "more.csv").write_text("submission,team,image,kind\n")
    words = [
        "submissions",
        "import",
        str(folder / "more.csv"),
        "--kaggle-leaderboard",
        str(tmp_path / "leaderboard.csv"),
    ]
    assert main([*words, "--challenge", str(folder)]) != 0
    said = capsys.readouterr()
    assert not set(hostile) & {"\x1b", "\x07", "\u009b", "\u202e"} & set(said.out + said.err)


def test_a_score_is_given_to_the_submission_that_it_is_of_or_to_none(tmp_path: Path) -> None:
    found = match(
        board(tmp_path, OLD),
        [
            ("only", "Late", None),
            ("first", "Tied", 0.7),
            ("second", "Tied", 0.4),
            ("a", "Last", None),
            ("b", "Last", None),
            ("x", "Nobody", None),
        ],
    )
    assert {name: standing.score for name, standing in found.standings.items()} == {"only": 0.4, "second": 0.4}
    assert found.several == ("Last",)
    assert found.missing == ("Nobody",)


def test_two_teams_of_one_name_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    found = board(tmp_path, "TeamId,TeamName,Score\n1,Same,0.1\n2,Same,0.2\n")
    assert "Same" not in found.standings
    assert (found.standings["1"].score, found.standings["2"].score) == (0.1, 0.2)


def test_the_public_score_and_rank_are_recorded_once(tmp_path: Path) -> None:
    _, ledger = opened(make_campaign(tmp_path / "challenge", score=False))
    found = board(tmp_path, NEW)
    with ledger:
        assert record_public_board(ledger, found, {"s-000001": found.standings["Selim"]})
        assert not record_public_board(ledger, found, {"s-000001": found.standings["Selim"]})
        scores = {row.submission: row.public_score for row in queries.submissions(ledger)}
        assert (scores["s-000001"], scores["s-000002"]) == (0.20336, None)
        assert queries.public_ranks(ledger) == {"s-000001": 1}
        ledger.verify()
        ledger.rebuild()
        assert queries.submissions(ledger)[0].public_score == 0.20336
        with pytest.raises(LedgerError, match="no submission s-none"):
            ledger.append(
                [
                    PublicBoardRecorded(
                        platform="kaggle",
                        digest=found.digest,
                        teams=1,
                        standings={"s-none": PublicStanding(score="0.5", rank=1)},
                    )
                ]
            )


# Handing back


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_prediction_file_goes_back_byte_for_byte_with_a_manifest(tmp_path: Path) -> None:
    folder = make_campaign(tmp_path / "challenge")
    target = tmp_path / "back"
    assert main(["export", "kaggle", str(target), "--phase", "private_test", "--challenge", str(folder)]) == 0
    rows = manifest(target)
    assert [row["submission"] for row in rows] == ["s-000001", "s-000002", "s-000003", "s-000004", FAILED]
    assert {path.name for path in target.iterdir()} == {"manifest.csv", *(row["file"] for row in rows if row["file"])}
    for row in rows[:-1]:
        data = (target / row["file"]).read_bytes()
        stored = (
            folder / ".referee" / "objects" / "results" / f"key-{row['submission']}-private_test" / "predictions.csv"
        )
        assert data == stored.read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert int(row["size_bytes"]) == len(data)
    assert (rows[-1]["verdict"], rows[-1]["file"], rows[-1]["sha256"]) == ("time_limit", "", "")
    assert "name" not in rows[0]


def test_names_go_back_on_demand_only_which_is_recorded_and_cannot_harm(tmp_path: Path) -> None:
    workspace, ledger = opened(make_campaign(tmp_path / "challenge"))
    with ledger:
        hand_back(workspace, ledger, "private_test", tmp_path / "back", unblind=True)
        assert ledger.events()[-1].event.kind == "identities.unblinded"
    rows = manifest(tmp_path / "back")
    assert (rows[0]["name"], rows[0]["team_name"]) == ("entry 0", "Team 0")
    assert rows[0]["file"] == "s-000001.csv"


def test_nothing_is_overwritten_or_left_half_done(tmp_path: Path) -> None:
    folder = make_campaign(tmp_path / "challenge")
    workspace, ledger = opened(folder)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    with ledger:
        with pytest.raises(ConfigurationError, match="holds something already"):
            hand_back(workspace, ledger, "private_test", taken)
        place = folder / ".referee" / "objects" / "results" / "key-s-000002-private_test" / "predictions.csv"
        place.chmod(stat.S_IRUSR | stat.S_IWUSR)
        place.write_bytes(b"filename,label\n")
        with pytest.raises(CheckFailedError, match="s-000002"):
            hand_back(workspace, ledger, "private_test", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".back*"))


def test_the_command_line_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_campaign(tmp_path / "challenge")
    line = ["export", "kaggle", str(tmp_path / "back"), "--phase", "public_test", "--challenge", str(folder)]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["files"]) == 4
    assert found["without"] == {FAILED: "time_limit"}
    assert main(line) == 2
    assert "holds something already" in capsys.readouterr().err
