"""Which ledger a challenge's folder has: its own, one at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import postgresql_world
from referee.digests import digest_of
from referee.errors import ConflictError, LedgerError
from referee.ledger import ChallengeRecorded, RiskAccepted, queries
from referee.workspace import Workspace

TEXT = 'name = "small"\n[phases.test]\ndata = "data"\nvisibility = "private"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").write_bytes(b"x")
    (tmp_path / "challenge.toml").write_text(TEXT)
    return tmp_path


def declare(folder: Path, url: str | None) -> Workspace:
    (folder / "challenge.toml").write_text(TEXT + (f'[ledger]\nurl = "{url}"\n' if url else ""))
    return Workspace.open(folder)


def test_an_address_without_a_schema_means_that_of_the_challenges_name(
    folder: Path, postgresql: postgresql_world.Server
) -> None:
    workspace = declare(folder, postgresql.address)
    assert workspace.home.place == f"{postgresql.address}&schema=small"
    url = postgresql.fresh()
    assert declare(folder, url).home.place == url


def test_a_database_that_is_declared_and_not_moved_to_gets_no_second_ledger(
    folder: Path, postgresql: postgresql_world.Server
) -> None:
    declare(folder, None).ledger_or_new().close()
    url = postgresql.fresh()
    with pytest.raises(ConflictError, match="has a ledger in") as caught:
        declare(folder, url).ledger_or_new()
    assert "ledger migrate" in caught.value.hint
    with pytest.raises(LedgerError, match="no ledger at"):
        declare(folder, url).ledger()


def test_a_file_gets_no_second_ledger_when_the_address_is_taken_out(
    folder: Path, postgresql: postgresql_world.Server
) -> None:
    url = postgresql.fresh()
    with declare(folder, url).ledger_or_new() as ledger:
        campaign = queries.campaign(ledger)
    with pytest.raises(ConflictError, match="is in a database"):
        declare(folder, None).ledger_or_new()
    declare(folder, url).home.move(declare(folder, url).home.file)
    with declare(folder, None).ledger_or_new() as ledger:
        assert queries.campaign(ledger) == campaign
        ledger.append([RiskAccepted(name="at home")])


def test_a_creation_that_was_interrupted_is_completed_by_the_same_folder_alone(
    folder: Path, postgresql: postgresql_world.Server
) -> None:
    url = postgresql.fresh()
    workspace = declare(folder, url)
    workspace.home._note_campaign("first")
    workspace.home._note_campaign("second")
    with workspace.ledger_or_new() as ledger:
        assert queries.campaign(ledger).campaign == "first"
    (folder / ".referee" / "campaign").write_text("another")
    for opening in (workspace.ledger, workspace.ledger_or_new):
        with pytest.raises(ConflictError, match="not begun in this folder"):
            opening()


def test_where_it_is_kept_is_not_part_of_what_is_judged_by(folder: Path, postgresql: postgresql_world.Server) -> None:
    digests = []
    for url in (None, postgresql.fresh()):
        workspace = declare(folder, url)
        (folder / ".referee" / "ledger.sqlite").unlink(missing_ok=True)
        _, events = workspace.record("test")
        digests.append(next(event.digest for event in events if event.kind == "challenge.recorded"))
    assert digests[0] == digests[1]


def test_a_later_version_that_knows_more_keys_does_not_record_an_unchanged_challenge_anew(folder: Path) -> None:
    workspace = declare(folder, None)
    _, events = workspace.record("test")
    (first,) = [event for event in events if isinstance(event, ChallengeRecorded)]
    known_then = json.loads(first.content)
    del known_then["duplicates"], known_then["limits"]["least_cpus"]
    text = json.dumps(known_then, separators=(",", ":"))
    with workspace.ledger_or_new() as ledger:
        ledger.append([ChallengeRecorded(digest=digest_of(text), content=text)])
    _, events = workspace.record("test")
    assert not [event for event in events if isinstance(event, ChallengeRecorded)]
    toml = folder / "challenge.toml"
    toml.write_text('duplicates = "run_once"\n' + toml.read_text())
    _, events = Workspace.open(folder).record("test")
    assert [event for event in events if isinstance(event, ChallengeRecorded)]
