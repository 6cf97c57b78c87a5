"""Where ledger and objects lie, through the command line: a database and a bucket, and moves between places."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import postgresql_world
import s3_world
from board_world import REFEREE, SUBMISSIONS, as_json, copy_challenge, make_challenge, referee

# The time is that of many commands on a busy machine.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

FEW = {name: SUBMISSIONS[name] for name in ("half", "exits")}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_challenge(tmp_path_factory.mktemp("places") / "challenge", FEW)
    referee(folder, "submissions", "import", "submissions.csv")
    return folder


def declare(folder: Path, table: str, **keys: str) -> None:
    with (folder / "challenge.toml").open("a") as file:
        file.write(f"\n[{table}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items()))


def board(folder: Path) -> list[tuple[str, Any]]:
    """Rank and score, or the verdict, by the operator's own names."""
    names = {row["submission"]: row["name"] for row in as_json(folder, "submissions", "list", "--unblind")}
    found = as_json(folder, "leaderboard")
    rows = [(names[row["submission"]], (row["rank"], row["score"])) for row in found["rows"]]
    return sorted(rows + [(names[row["submission"]], row["verdict"]) for row in found["unscored"]])


def links(folder: Path) -> list[str]:
    return referee(folder, "ledger", "events", "--json").splitlines()


def refused(folder: Path, *arguments: str) -> str:
    done = subprocess.run([REFEREE, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done
    return done.stderr


def test_a_campaign_in_a_database_and_a_bucket(
    tmp_path: Path, postgresql: postgresql_world.Server, s3: s3_world.Service
) -> None:
    folder = make_challenge(tmp_path / "elsewhere", FEW)
    declare(folder, "ledger", url=postgresql.address)  # the schema is called like the challenge
    declare(folder, "objects", url=f"s3://{s3_world.BUCKET}/campaign", region="us-east-1", endpoint=s3.endpoint)
    referee(folder, "submissions", "import", "submissions.csv")
    referee(folder, "run", "--phase", "private_test")
    referee(folder, "score")
    verdicts = {name: found for name, found in board(folder) if isinstance(found, str)}
    assert verdicts == {"exits": "nonzero_exit", "wants a gpu": "unroutable"}
    assert [name for name, found in board(folder) if not isinstance(found, str)] == ["half"]
    state = folder / ".referee"
    assert not (state / "ledger.sqlite").exists()
    assert not any((state / "objects" / kind).exists() for kind in ("results", "claims", "specs"))
    referee(folder, "ledger", "verify")
    # A second challenge of that name does not get into the schema.
    other = make_challenge(tmp_path / "other", FEW)
    declare(other, "ledger", url=postgresql.address)
    assert "not begun in this folder" in refused(other, "submissions", "import", "submissions.csv")
    # Whoever has the folder may go on from another machine.
    copy = copy_challenge(folder, tmp_path / "copy")
    assert as_json(copy, "status", "--phase", "private_test")["done"] == len(FEW) + 1


def test_a_ledger_moves_and_comes_back(imported: Path, tmp_path: Path, postgresql: postgresql_world.Server) -> None:
    folder = copy_challenge(imported, tmp_path / "challenge")
    before = links(folder)
    text = (folder / "challenge.toml").read_text()
    url = postgresql.fresh("moved")

    moved = as_json(folder, "ledger", "migrate", "--to", url)
    assert (moved["to"], moved["earlier"]) == (url, False)
    again = as_json(folder, "ledger", "migrate", "--to", url)
    assert (again["earlier"], again["head"]) == (True, moved["head"])
    assert "has arrived" in refused(folder, "ledger", "migrate", "--to", url, "--abandon", "We think better of it.")
    # The old one says where it went, and is read on.
    words = refused(folder, "run", "--phase", "private_test")
    assert url in " ".join(words.split())
    assert "Traceback" not in words

    declare(folder, "ledger", url=url)
    referee(folder, "run", "--phase", "private_test")
    referee(folder, "score")
    there, rows = links(folder), board(folder)
    assert there[: len(before)] == before

    back = as_json(folder, "ledger", "migrate", "--to", "sqlite")
    assert back["set_aside"]
    (folder / "challenge.toml").write_text(text)
    assert links(folder)[: len(there)] == there
    assert board(folder) == rows


def test_mistakes_in_where_a_ledger_shall_be_are_sentences(imported: Path, tmp_path: Path) -> None:
    folder = copy_challenge(imported, tmp_path / "challenge")
    for to, status in (
        ("mysql://host/db", 2),
        ("postgresql://me:hunter2@host/db", 2),
        (f"postgresql:///db?host={tmp_path}/nobody", 3),
    ):
        done = subprocess.run(
            [REFEREE, "ledger", "migrate", "--to", to], cwd=folder, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (status, ""), done
        assert "Traceback" not in done.stderr
        assert "hunter2" not in done.stderr
    declare(folder, "ledger", url="postgresql://me:hunter2@host/db")
    done = subprocess.run([REFEREE, "status"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr
