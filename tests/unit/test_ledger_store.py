"""`Ledger`: creating, opening, appending, leading, verifying, rebuilding."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from ledger_histories import ended, identity, imported, new_ledger, phase, planned, requested, small_campaign

from referee.errors import ConflictError, HostError, LedgerError
from referee.ledger import (
    ControllerStarted,
    ControllerStopped,
    Identity,
    Ledger,
    LedgerCreated,
    RiskAccepted,
    SubmissionImported,
    queries,
    store,
)
from referee.ledger.store import Lease


@pytest.fixture
def ledger(place: Path | str) -> Iterator[Ledger]:
    with new_ledger(place) as made:
        yield made


@pytest.fixture
def file_ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path) as made:
        yield made


def tamper(ledger: Ledger, *statements: str) -> None:
    """What somebody does who has the file and SQLite's own shell, or the owner's role and psql."""
    if isinstance(ledger.where, Path):
        connection = sqlite3.connect(ledger.where)
        with connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        return
    address, _, schema = ledger.where.partition("&schema=")
    with psycopg.connect(address) as session:
        session.execute(f'SET search_path TO "{schema}"')
        for statement in statements:
            session.execute(statement)


def without_triggers(ledger: Ledger) -> tuple[str, ...]:
    """What a forger begins with."""
    if isinstance(ledger.where, Path):
        return ("DROP TRIGGER events_no_update", "DROP TRIGGER events_no_delete")
    return ("ALTER TABLE events DISABLE TRIGGER USER",)


def test_a_new_ledger_is_whole(ledger: Ledger) -> None:
    assert [recorded.event for recorded in ledger.events()] == [
        LedgerCreated(campaign="c-1", challenge_name="faces"),
    ]
    assert queries.campaign(ledger).campaign == "c-1"


def test_a_new_file_is_private_and_alone(file_ledger: Ledger, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "ledger.sqlite").stat().st_mode) == 0o600
    file_ledger.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]


def test_a_ledger_is_never_made_over_another(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="already"):
        new_ledger(ledger.where)
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name] == []
    ledger.verify()


def test_what_a_killed_creation_left_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".ledger.sqlite.new-4194305-dead").write_bytes(b"half")  # above the greatest process id of Linux
    (tmp_path / ".ledger.sqlite.new-1-alive").write_bytes(b"somebody else is at it")
    new_ledger(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.sqlite", ".ledger.sqlite.new-1-alive"}


def test_a_place_that_cannot_be_written_is_the_hosts_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="cannot be made in") as caught:
        new_ledger(tmp_path / "file" / "ledger.sqlite")
    assert "permissions" in caught.value.hint


def test_a_creation_that_fails_leaves_nothing(
    place: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_connection: object) -> None:
        with pytest.raises(LedgerError, match="no ledger at"):
            Ledger.open(place)
        raise RuntimeError("power cut")

    monkeypatch.setattr(store, "bring_up_to_date", fail)
    with pytest.raises(RuntimeError):
        new_ledger(place)
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.open(place)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_ledger_is_said_to_be_missing(place: Path | str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger at") as caught:
        Ledger.open(place)
    assert "import" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_ledger_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"filename,label\n" * 400)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger.open(tmp_path / "ledger.sqlite")


def test_every_connection_syncs_fully_and_writes_ahead(file_ledger: Ledger) -> None:
    with file_ledger.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_an_append_is_all_or_nothing(ledger: Ledger) -> None:
    before = ledger.head()
    with pytest.raises(LedgerError, match="imported before"):
        ledger.append([RiskAccepted(name="a"), imported(1), imported(1)])
    assert ledger.head() == before
    assert queries.submissions(ledger) == ()


def test_each_event_names_the_one_before(ledger: Ledger) -> None:
    small_campaign(ledger)
    links = ledger.links()
    assert [link.seq for link in links] == list(range(1, len(links) + 1))
    assert [link.prev for link in links] == ["0" * 64, *(link.hash for link in links[:-1])]
    assert ledger.verify().seq == len(links)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET kind = 'risk.accepted' WHERE seq = 2",
        "DELETE FROM events WHERE seq = 2",
        "DELETE FROM events",
        "INSERT INTO events SELECT 99, hash, time, epoch, kind, payload, 'h' FROM events WHERE seq = 2",
        "INSERT INTO events SELECT 20, prev, time, epoch, kind, payload, 'h' FROM events WHERE seq = 2",
    ],
)
def test_the_database_itself_keeps_the_chain_append_only(ledger: Ledger, statement: str) -> None:
    small_campaign(ledger)
    refusal = (sqlite3.IntegrityError, psycopg.IntegrityError)
    with pytest.raises(refusal, match=r"append-only|only added after the last"):
        tamper(ledger, statement)
    ledger.verify()


def test_replace_does_not_get_round_the_triggers(file_ledger: Ledger) -> None:
    small_campaign(file_ledger)
    with pytest.raises(sqlite3.IntegrityError, match="only added after the last"):
        tamper(
            file_ledger,
            "REPLACE INTO events SELECT seq, prev, time, epoch, kind, '{}', hash FROM events WHERE seq = 2",
        )
    file_ledger.verify()


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (("UPDATE events SET payload = '{}' WHERE seq = 3",), "broken at event 3: .*changed after"),
        (("DELETE FROM events WHERE seq = 3",), "broken at event 4: .*missing"),
        (("DELETE FROM events WHERE seq = 1",), "broken at event 2: .*missing"),
        (("UPDATE events SET time = 'noon' WHERE seq = 5",), "broken at event 5: it cannot be read"),
        (("UPDATE identities SET team_name = 'Other' WHERE submission = 's-2'",), "names of s-2 .*changed"),
        (("UPDATE scores SET value = '0.1' WHERE evaluation = 's-2.private_test'",), "table scores .*s-2.private_test"),
        (("DELETE FROM attempts WHERE attempt = 's-1.private_test.1'",), "table attempts .*s-1.private_test.1"),
        (("UPDATE evaluations SET verdict = 'crashed'",), "table evaluations"),
    ],
)
def test_verify_names_the_first_thing_that_was_tampered_with(
    ledger: Ledger, statements: tuple[str, ...], found: str
) -> None:
    small_campaign(ledger)
    ledger.verify()
    tamper(ledger, *without_triggers(ledger), *statements)
    with pytest.raises(LedgerError, match=found):
        ledger.verify()


def test_a_truncated_chain_shows_in_its_tables(ledger: Ledger) -> None:
    small_campaign(ledger)
    tamper(ledger, *without_triggers(ledger), "DELETE FROM events WHERE seq > 4")
    with pytest.raises(LedgerError, match="does not follow from the chain"):
        ledger.verify()


def test_rebuild_makes_the_tables_again(ledger: Ledger) -> None:
    small_campaign(ledger)
    tamper(ledger, "UPDATE scores SET value = '0.1'", "DELETE FROM controllers")
    with pytest.raises(LedgerError):
        ledger.verify()
    ledger.rebuild()
    ledger.verify()
    assert queries.scores(ledger)[0].value == 0.1 + 0.2


def test_rebuild_does_not_build_on_a_broken_chain(ledger: Ledger) -> None:
    small_campaign(ledger)
    tamper(ledger, *without_triggers(ledger), "UPDATE events SET payload = '{}' WHERE seq = 3")
    with pytest.raises(LedgerError, match="event 3"):
        ledger.rebuild()
    assert len(queries.scores(ledger)) == 2


def test_what_controllers_write_needs_the_lease(ledger: Ledger) -> None:
    ledger.append([phase(), imported(1)])
    with pytest.raises(LedgerError, match="holds the lease"):
        ledger.append([requested(1)])
    with pytest.raises(LedgerError, match="No controller ever had the epoch 1"):
        ledger.append([requested(1)], epoch=1)


def test_an_earlier_epoch_is_fenced_off(tmp_path: Path, file_ledger: Ledger) -> None:
    ledger = file_ledger
    ledger.append([phase(), imported(1)])
    with ledger.lead(host="old") as old:
        old.append([requested(1)])
        # The lock is forgotten, as a network file system or a copied folder would; the epoch still fences.
        (tmp_path / "controller.lock").unlink()
        with ledger.lead(host="new") as new, Ledger.open(ledger.where) as other:
            with pytest.raises(ConflictError, match=r"process \d+ on new \(epoch 2; this one is 1\)"):
                old.append([planned("s-1.private_test")])
            Lease(other, new.epoch).append([planned("s-1.private_test")])
    assert [row.attempt for row in queries.open_attempts(ledger)] == ["s-1.private_test.1"]
    ledger.verify()


def test_a_lease_ends_with_its_block(ledger: Ledger) -> None:
    ledger.append([phase(), imported(1)])
    with ledger.lead() as lease:
        pass
    with pytest.raises(ConflictError, match="lease of epoch 1 has ended"):
        lease.append([requested(1)])
    with ledger.lead() as again:
        assert again.epoch == 2


def test_the_chain_says_how_each_controller_stopped(ledger: Ledger) -> None:
    with ledger.lead():
        pass
    with pytest.raises(KeyboardInterrupt), ledger.lead():
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), ledger.lead():
        raise ZeroDivisionError
    assert [row.stop_reason for row in queries.controllers(ledger)] == ["finished", "interrupted", "ZeroDivisionError"]


def test_some_events_are_the_ledgers_own(ledger: Ledger) -> None:
    for event in (LedgerCreated(campaign="c", challenge_name="n"), ControllerStarted(epoch=9, host="h", pid=1)):
        with pytest.raises(LedgerError, match="by the ledger itself"):
            ledger.append([event], epoch=1)
    with ledger.lead() as lease, pytest.raises(LedgerError, match="controller 7 does not run"):
        lease.append([ControllerStopped(epoch=7)])


def test_names_are_bound_by_their_commitment(ledger: Ledger) -> None:
    ledger.append([imported(1)], identities=[identity(1)])
    other = Identity("s-2", "t-1", "Submission 2", "Somebody else", "salt")
    with pytest.raises(LedgerError, match="not those that the chain commits to"):
        ledger.append([imported(2)], identities=[other])
    assert [row.submission for row in queries.submissions(ledger)] == ["s-1"]
    assert queries.names(ledger, ["s-1", "s-2"]) == {"s-1": identity(1)}
    assert all("Team" not in link.payload for link in ledger.links())


def test_a_fresh_salt_hides_the_same_names() -> None:
    one, two = (Identity.new("s-1", "t-1", "Best", "Team") for _ in range(2))
    assert one.commitment != two.commitment
    assert SubmissionImported.model_fields["identity_commitment"].is_required()


def test_a_reader_sees_one_state_while_a_writer_goes_on(ledger: Ledger) -> None:
    with ledger.read() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM events").scalar()
        ledger.append([RiskAccepted(name="a")])
        assert connection.exec_driver_sql("SELECT count(*) FROM events").scalar() == count
    assert len(ledger.events()) == (count or 0) + 1


def test_an_ended_attempt_does_not_end_again_in_another_lease(ledger: Ledger) -> None:
    ledger.append([phase(), imported(1)])
    with ledger.lead() as lease:
        lease.append([requested(1), planned("s-1.private_test"), ended("s-1.private_test.1")])
    with ledger.lead() as lease, pytest.raises(LedgerError, match="not open"):
        lease.append([ended("s-1.private_test.1")])
