"""Several processes at one ledger: no fork of the chain, one controller, and nothing lost by SIGKILL."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ledger_process
import pytest
from ledger_histories import new_ledger
from sqlalchemy import create_engine, text

from referee.errors import ConflictError
from referee.ledger import ControllerStopped, Ledger, NodeProved, RiskAccepted, database, lease, queries, sqlite


@contextmanager
def process(ledger: Ledger, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, ledger_process.__file__, str(ledger.where), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def heard(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


@pytest.fixture
def ledger(place: Path | str) -> Iterator[Ledger]:
    with new_ledger(place) as made:
        yield made


@pytest.fixture
def file_ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path) as made:
        yield made


def file_of(ledger: Ledger) -> Path:
    assert isinstance(ledger.where, Path)
    return ledger.where


def test_two_processes_that_append_at_once_make_one_chain(ledger: Ledger) -> None:
    # A writer that finds the ledger busy sleeps, so one may be done before the other wakes: try until they met.
    met = False
    for turn in range(6):
        marks = (f"a{turn}", f"b{turn}")
        with process(ledger, "append", marks[0], "500") as one, process(ledger, "append", marks[1], "500") as two:
            for started in (one, two):
                assert heard(started) == "ready"
            for started in (one, two):
                assert started.stdin is not None
                started.stdin.write("go\n")
                started.stdin.flush()
            assert one.wait(timeout=200) == 0
            assert two.wait(timeout=200) == 0
        assert ledger.verify().seq == 1001 + 1000 * turn
        written = [recorded.event.name for recorded in ledger.events(RiskAccepted)][-1000:]
        for mark in marks:
            own = [name for name in written if name.startswith(f"{mark}-")]
            assert own == [f"{mark}-{number}" for number in range(500)]
        met = {name.split("-")[0] for name in written[:500]} == set(marks)
        if met:
            break
    assert met, "in six turns one writer was always done before the other began"


def test_threads_that_append_at_once_make_one_chain(ledger: Ledger) -> None:
    def write(mark: int) -> None:
        for number in range(40):
            ledger.append([RiskAccepted(name=f"{mark}-{number}")])

    threads = [threading.Thread(target=write, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.verify().seq == 161


def test_with_default_transactions_two_connections_fork_a_chain(tmp_path: Path) -> None:
    """Why `sqlite.open_engine` takes the transactions from the driver and begins them with BEGIN IMMEDIATE."""
    engines = [create_engine(f"sqlite:///{tmp_path / 'plain.sqlite'}") for _ in range(2)]
    with engines[0].begin() as connection:
        connection.execute(text("CREATE TABLE links (seq INTEGER PRIMARY KEY AUTOINCREMENT, prev INTEGER)"))
    newest = text("SELECT coalesce(max(seq), 0) FROM links")
    # Both are inside a transaction, as far as SQLAlchemy says; the driver has begun none, so both read the same head.
    with engines[0].connect() as one, engines[1].connect() as two, one.begin(), two.begin():
        heads = [connection.execute(newest).scalar() for connection in (one, two)]
        for connection, head in zip((one, two), heads, strict=True):
            connection.execute(text("INSERT INTO links (prev) VALUES (:head)"), {"head": head})
            connection.commit()
    with engines[0].connect() as connection:
        assert connection.execute(text("SELECT prev FROM links")).scalars().all() == [0, 0]
    for engine in engines:
        engine.dispose()


def test_nobody_reads_the_head_to_write_while_another_writes(file_ledger: Ledger) -> None:
    engine = sqlite.open_engine(file_of(file_ledger))
    other = sqlite3.connect(file_of(file_ledger), timeout=0, isolation_level=None)
    with sqlite.writing(engine), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    engine.dispose()


def test_a_writer_that_never_lets_go_is_reported(file_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    other = sqlite3.connect(file_of(file_ledger), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Ledger.open(file_of(file_ledger)) as impatient, pytest.raises(ConflictError, match="write lock"):
        impatient.append([RiskAccepted(name="late")])
    other.close()
    file_ledger.verify()


def test_a_second_controller_is_refused_at_once_and_told_by_whom(ledger: Ledger) -> None:
    with process(ledger, "lead") as first:
        assert heard(first) == "1"
        with pytest.raises(ConflictError, match=rf"process {first.pid} on elsewhere") as caught, ledger.lead():
            raise AssertionError
        assert caught.value.exit_code == 4
        assert caught.value.hint
    assert len(queries.controllers(ledger)) == 1


def test_after_sigkill_the_next_controller_takes_over(ledger: Ledger) -> None:
    with process(ledger, "lead") as first:
        assert heard(first) == "1"
        first.send_signal(signal.SIGKILL)
        first.wait()
        with ledger.lead(host="here") as lease:
            assert lease.epoch == 2
    died, next_one = queries.controllers(ledger)
    assert (died.stopped_at, next_one.stop_reason) == (None, "finished")
    ledger.verify()


def test_children_that_outlive_a_killed_controller_do_not_keep_its_lock(ledger: Ledger) -> None:
    with process(ledger, "lead_and_fork") as first:
        child = int(heard(first))
        try:
            first.send_signal(signal.SIGKILL)
            first.wait()
            os.kill(child, 0)
            with ledger.lead() as lease:
                assert lease.epoch == 2
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_whose_holder_is_gone_is_waited_for_and_then_refused(
    file_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_GRACE_SECONDS", 0.5)
    path = file_of(file_ledger).with_name(lease.FILE_NAME)
    path.write_text('{"pid": 4194305, "host": "elsewhere"}')  # above the greatest process id of Linux
    with path.open() as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="process 4194305 on elsewhere"), file_ledger.lead():
            raise AssertionError
        threading.Timer(0.1, fcntl.flock, (kept, fcntl.LOCK_UN)).start()
        with file_ledger.lead() as later:
            assert later.epoch == 1


def test_sigkill_at_any_moment_loses_nothing_that_was_said_to_be_written(ledger: Ledger) -> None:
    chance = random.Random(2)
    said: list[str] = []
    for _ in range(12):
        with process(ledger, "lead_and_write") as writer:
            said.append(heard(writer))
            time.sleep(chance.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
            assert writer.stdout is not None
            said += [line.strip() for line in writer.stdout if line.endswith("\n")]
        ledger.verify()
    written = [recorded.event.node for recorded in ledger.events(NodeProved)]
    assert set(said) <= set(written)
    assert len(said) > 12
    # Each append was three events in one transaction: all three are there, or none.
    assert all(written.count(node) == 3 for node in set(written))
    assert ledger.events(ControllerStopped) == []
