"""What is PostgreSQL's alone: addresses and passwords, sessions that end, servers that go away, schemas of others."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import ledger_process
import psycopg
import pytest
from ledger_histories import new_ledger, small_campaign

import postgresql_world
from referee.errors import ConfigurationError, ConflictError, HostError
from referee.ledger import Ledger, NodeProved, RiskAccepted, database, queries
from referee.ledger.database import ConnectionLostError
from referee.ledger.postgresql import PostgresqlDatabase

WORD = "correct-horse"


@pytest.fixture
def ledger(postgresql: postgresql_world.Server) -> Iterator[Ledger]:
    with new_ledger(postgresql.fresh()) as made:
        yield made


@pytest.fixture(scope="module")
def frail() -> Iterator[postgresql_world.Server]:
    """A server that is stopped and started."""
    with postgresql_world.server() as made:
        yield made


def proof(name: str) -> NodeProved:
    return NodeProved(node=name, boot_id="b", level="runc", checks=1)


# Addresses and passwords


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{WORD}@host/db?schema=a",
        f"postgresql://host/db?schema=a&password={WORD}",
        f"postgresql://host/db?schema=a&sslpassword={WORD}",
        f"postgresql://me:{WORD}%zz@host/db?schema=a",
        f"postgresql://me:pass@{WORD}@host/db?schema=a",
        f"postgresql://[me:{WORD}@host/db?schema=a",
        f"postgresql://host/db?schema=a&{WORD}",
        f"postgresql://host:{WORD}/db?schema=a",
    ],
)
def test_a_password_in_an_address_is_refused_and_never_printed(url: str) -> None:
    with pytest.raises((ConfigurationError, HostError)) as caught:
        Ledger.open(url)
    assert WORD not in str(caught.value)


@pytest.mark.parametrize("schema", ["", "pg_mine", "public", "information_schema", "x" * 64, "a&schema=b"])
def test_a_schema_that_is_not_ones_own_is_refused(schema: str) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        PostgresqlDatabase(f"postgresql://host/db?schema={schema}")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql:///db?host=/run/postgresql&schema=a", {"dbname": "db", "host": "/run/postgresql"}),
        ("postgres://me@h:5433/db?schema=a&sslmode=require", {"user": "me", "host": "h", "port": "5433"}),
        ("postgresql://one,two:5433/db?schema=a&target_session_attrs=read-write", {"host": "one,two"}),
        ("postgresql:///?service=campaigns&schema=a", {"service": "campaigns"}),
    ],
)
def test_an_address_is_libpqs_own(url: str, wanted: dict[str, str]) -> None:
    with_schema = PostgresqlDatabase(url)
    assert wanted.items() <= with_schema._parameters.items()
    assert with_schema._schema == "a"


def test_a_password_comes_from_the_password_file(
    postgresql: postgresql_world.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgresql.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{WORD}'", "GRANT CREATE ON DATABASE referee TO guarded")
    url = postgresql.fresh().replace("referee@", "guarded@")
    passwords = tmp_path / "pgpass"
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    for line in ("*:*:*:*:wrong-" + WORD, ""):
        passwords.write_text(line)
        passwords.chmod(0o600)
        with pytest.raises(HostError, match="cannot be reached") as caught:
            new_ledger(url)
        assert WORD not in str(caught.value)
        assert ".pgpass" in caught.value.hint
    passwords.write_text(f"*:*:referee:guarded:{WORD}")
    with new_ledger(url) as ledger:
        ledger.verify()


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "referee.ledger.postgresql", None)
    with pytest.raises(ConfigurationError, match="driver") as caught:
        Ledger.open("postgresql://host/db?schema=a")
    assert "referee[postgresql]" in caught.value.hint


def test_odd_names_of_schemas_are_names(postgresql: postgresql_world.Server) -> None:
    with new_ledger(f"{postgresql.address}&schema=Faces%20%22of%22%20%C3%A4%3B--%25s") as ledger:
        small_campaign(ledger)
        ledger.verify()
    assert postgresql.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'Faces \"of\" ä;--%s'") == [(1,)]


# Several campaigns in one database


def test_campaigns_in_one_database_do_not_touch(postgresql: postgresql_world.Server) -> None:
    with new_ledger(postgresql.fresh()) as one, new_ledger(postgresql.fresh()) as two:
        with one.lead() as lease, two.lead() as other:
            lease.append([proof("a")])
            other.append([proof("b")])
            # A writer in one does not wait for a writer in the other.
            with one.database.writing():
                other.append([proof("c")])
        assert [row.node for row in queries.nodes(one)] == ["a"]
        assert [row.node for row in queries.nodes(two)] == ["b", "c"]


def test_a_schema_that_an_administrator_made_is_used(postgresql: postgresql_world.Server) -> None:
    postgresql.execute("CREATE ROLE modest LOGIN", "CREATE SCHEMA theirs AUTHORIZATION modest")
    url = f"{postgresql.address.replace('referee@', 'modest@')}&schema=theirs"
    with new_ledger(url) as ledger:
        ledger.verify()
    with pytest.raises(HostError, match="permission denied"):
        new_ledger(url.replace("theirs", "not_theirs"))


def test_of_two_who_create_at_once_one_succeeds(postgresql: postgresql_world.Server) -> None:
    url, outcomes = postgresql.fresh(), []

    def create() -> None:
        try:
            new_ledger(url).close()
            outcomes.append("made")
        except ConflictError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", "refused", "refused", "refused"]
    with Ledger.open(url) as ledger:
        assert ledger.verify().seq == 1


def test_text_is_ordered_by_its_bytes_as_in_sqlite(place: Path | str) -> None:
    names = ["b", "A", "_", "Z", "a", "é", "-a", "B-1", "b_1", "𝄞", "\ue000"]
    with new_ledger(place) as ledger:
        with ledger.lead() as lease:
            lease.append([proof(name) for name in names])
        assert [row.node for row in queries.nodes(ledger)] == sorted(names, key=str.encode)


def test_a_database_that_cannot_keep_all_text_is_refused(postgresql: postgresql_world.Server) -> None:
    with psycopg.connect(postgresql.address, autocommit=True) as connection:
        connection.execute(
            "CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
    with pytest.raises(ConfigurationError, match="LATIN1") as caught:
        new_ledger(postgresql.fresh().replace("/referee?", "/narrow?"))
    assert "UTF8" in caught.value.hint


# The chain


@pytest.mark.parametrize(
    "statements",
    [
        ("TRUNCATE events",),
        ("SET session_replication_role = replica", "DELETE FROM events WHERE seq = 2"),
        ("SET session_replication_role = replica", "UPDATE events SET payload = '{}' WHERE seq = 2"),
        ("SET search_path TO public", "CREATE TABLE IF NOT EXISTS events (seq int, hash text)", "DELETE FROM {events}"),
        (
            "SET search_path TO public",
            "CREATE TABLE IF NOT EXISTS events (seq int, hash text)",
            "INSERT INTO {events} SELECT 1, hash, time, epoch, kind, payload, 'h' FROM {events} WHERE seq = 2",
        ),
    ],
)
def test_there_is_no_way_round_the_triggers(
    ledger: Ledger, postgresql: postgresql_world.Server, statements: tuple[str, ...]
) -> None:
    small_campaign(ledger)
    schema = str(ledger.where).partition("schema=")[2]
    filled = [statement.replace("{events}", f"{schema}.events") for statement in statements]
    with pytest.raises(psycopg.IntegrityError, match=r"append-only|only added after"):
        postgresql.execute(*filled, url=str(ledger.where))
    ledger.verify()


def test_reading_cannot_write(ledger: Ledger) -> None:
    with pytest.raises(HostError, match="read-only"), ledger.read() as connection:
        connection.exec_driver_sql("DELETE FROM nodes")


def test_a_writer_that_never_lets_go_is_reported(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    with (
        Ledger.open(ledger.where) as impatient,
        ledger.database.writing(),
        pytest.raises(ConflictError, match="write lock"),
    ):
        impatient.append([RiskAccepted(name="late")])
    ledger.append([RiskAccepted(name="in time")])


def test_a_writer_that_is_killed_between_two_statements_leaves_nothing_and_no_lock(ledger: Ledger) -> None:
    before = ledger.head()
    command = [sys.executable, ledger_process.__file__, str(ledger.where), "stop_between_statements"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "events are inserted\n"
        writer.send_signal(signal.SIGKILL)
    ledger.append([RiskAccepted(name="next")])
    assert ledger.verify().seq == before.seq + 1


def test_a_dump_that_is_restored_is_the_ledger_again(postgresql: postgresql_world.Server) -> None:
    url = postgresql.fresh()
    schema = url.partition("schema=")[2]
    with new_ledger(url) as ledger:
        small_campaign(ledger)
        head = ledger.head()
    dump = subprocess.run(
        [postgresql_world.program("pg_dump"), f"--schema={schema}", postgresql.address],
        check=True,
        capture_output=True,
    ).stdout
    postgresql.execute(f"DROP SCHEMA {schema} CASCADE")
    psql = [postgresql_world.program("psql"), "--quiet", "--set=ON_ERROR_STOP=1", postgresql.address]
    subprocess.run(psql, input=dump, check=True, stdout=subprocess.DEVNULL)
    with Ledger.open(url) as ledger:
        assert ledger.verify() == head
        with ledger.lead() as lease:
            lease.append([proof("a")])
    with pytest.raises(psycopg.IntegrityError, match="append-only"):
        postgresql.execute("DELETE FROM events", url=url)


# Sessions that end


def end_sessions(server: postgresql_world.Server) -> None:
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'referee'")


def test_a_controller_whose_session_ends_stops_writing_at_once(frail: postgresql_world.Server) -> None:
    url = frail.fresh()

    def lead(ledger: Ledger) -> None:
        with ledger.lead(host="old") as old:
            old.append([proof("a")])
            end_sessions(frail)
            with pytest.raises(ConnectionLostError, match="was lost"):
                old.append([proof("b")])
            # Its connection would come back, but the lock that went with it may be another's by now.
            with Ledger.open(url) as other, other.lead(host="new") as new:
                new.append([proof("c")])
                assert [row.node for row in queries.nodes(ledger)] == ["a", "c"]
                old.append([proof("d")])

    with new_ledger(url) as ledger:
        with pytest.raises(ConnectionLostError, match="was lost") as caught:
            lead(ledger)
        assert caught.value.exit_code == 3
        assert "referee run" in caught.value.hint
        assert [row.node for row in queries.nodes(ledger)] == ["a", "c"]
        with ledger.lead() as again:
            again.append([proof("e")])
        ledger.verify()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restarted", "crashed"])
def test_a_server_that_goes_away_under_a_controller(frail: postgresql_world.Server, how: signal.Signals) -> None:
    def lead(ledger: Ledger) -> None:
        with ledger.lead() as lease:
            lease.append([proof("a")])
            frail.restart(how)
            # Who only reads does not notice; who writes as a controller does.
            assert [row.node for row in queries.nodes(ledger)] == ["a"]
            lease.append([proof("b")])

    with new_ledger(frail.fresh()) as ledger:
        with pytest.raises(ConnectionLostError, match="was lost"):
            lead(ledger)
        with ledger.lead() as lease:
            assert lease.epoch == 2
            lease.append([proof("b")])
        ledger.append([RiskAccepted(name="by hand")])
        ledger.verify()
        died, ended = queries.controllers(ledger)
        assert (died.stopped_at, ended.stop_reason) == (None, "finished")


def test_a_server_that_is_not_there_is_said_to_be(frail: postgresql_world.Server) -> None:
    url = frail.fresh()
    new_ledger(url).close()
    frail.stop()
    try:
        with pytest.raises(HostError, match="cannot be reached") as caught:
            Ledger.open(url)
        assert "server runs" in caught.value.hint
    finally:
        frail.start()
    Ledger.open(url).close()
