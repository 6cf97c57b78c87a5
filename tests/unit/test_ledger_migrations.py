"""Ledgers of older versions are brought up to date, those of newer ones refused, and nothing is half done."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ledger_histories import new_ledger, small_campaign

from referee.errors import ConflictError, LedgerError
from referee.ledger import Ledger, RiskAccepted, queries, store
from referee.ledger.lease import ControllerLock
from referee.ledger.migrations import NEWEST, version_of
from referee.ledger.schema import METADATA

# Dumped from a ledger that the code of schema 0001 wrote: the small campaign of `ledger_histories`.
OLD = Path(__file__).parent / "data" / "ledger_0001.sql"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(OLD.read_text(encoding="utf-8"))
    connection.close()
    return path


def version(path: Path) -> str:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    return str(found)


def test_an_old_ledger_is_brought_up_to_date_and_goes_on(old: Path) -> None:
    assert version(old) == "0001"
    with Ledger.open(old) as ledger:
        assert version(old) == NEWEST
        head = ledger.verify()
        assert [row.value for row in queries.scores(ledger)] == [0.1 + 0.2] * 2
        assert queries.status(ledger, "private_test").done == 2
        ledger.append([RiskAccepted(name="new")])
        assert ledger.verify().seq == head.seq + 1


def test_bringing_up_to_date_does_not_touch_the_chain(old: Path) -> None:
    connection = sqlite3.connect(old)
    before = connection.execute("SELECT * FROM events ORDER BY seq").fetchall()
    Ledger.open(old).close()
    assert connection.execute("SELECT * FROM events ORDER BY seq").fetchall() == before
    connection.close()


def test_an_old_ledger_is_not_changed_under_its_controller(old: Path) -> None:
    lock = ControllerLock(old.with_name("controller.lock"))
    lock.acquire("elsewhere")
    with pytest.raises(ConflictError, match="elsewhere"):
        Ledger.open(old)
    assert version(old) == "0001"
    lock.release()
    Ledger.open(old).close()
    assert version(old) == NEWEST


def test_a_migration_that_fails_leaves_the_old_ledger(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(store.soundness, "rebuild", fail)
    with pytest.raises(RuntimeError):
        Ledger.open(old)
    assert version(old) == "0001"
    connection = sqlite3.connect(old)
    indices = connection.execute("SELECT name FROM sqlite_master WHERE name = 'attempts_by_node'").fetchall()
    assert indices == []
    connection.close()


def test_a_newer_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    new_ledger(tmp_path).close()
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(LedgerError, match="newer version of Referee") as caught:
        Ledger.open(path)
    assert "Install" in caught.value.hint
    assert version(path) == "9999"


def test_the_migrations_lead_to_the_tables_that_the_code_uses(place: Path | str) -> None:
    with new_ledger(place) as ledger, ledger.read() as connection:
        assert version_of(connection) == NEWEST
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_opening_an_up_to_date_ledger_does_not_look_for_migrations(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_ledger(place) as ledger:
        small_campaign(ledger)
    monkeypatch.delattr(store, "bring_up_to_date")
    with Ledger.open(place) as ledger:
        assert queries.status(ledger, "private_test").total == 2
