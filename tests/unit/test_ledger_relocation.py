"""Moving a ledger between databases: the same chain, names and tables; and never two ledgers that take events."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ledger_process
import pytest
from ledger_histories import identity, imported, new_ledger, phase, small_campaign

import postgresql_world
from referee.errors import ConfigurationError, ConflictError, HostError, LedgerError
from referee.ledger import Ledger, RiskAccepted, projections, queries, relocation
from referee.ledger.moves import LedgerArrived, LedgerMoved
from referee.ledger.relocation import Relocated, abandon, relocate
from referee.ledger.store import database_at


@pytest.fixture(params=["to postgresql", "to sqlite"])
def places(
    request: pytest.FixtureRequest, tmp_path: Path, postgresql: postgresql_world.Server
) -> tuple[Path | str, Path | str]:
    """Where the ledger is, and where it shall be."""
    both: tuple[Path | str, Path | str] = (tmp_path / "ledger.sqlite", postgresql.fresh())
    return both if request.param == "to postgresql" else both[::-1]


@pytest.fixture
def source(places: tuple[Path | str, Path | str]) -> Iterator[Ledger]:
    with new_ledger(places[0]) as made:
        small_campaign(made, 3)
        yield made


@pytest.fixture
def target(places: tuple[Path | str, Path | str]) -> Path | str:
    return places[1]


def move(source: Ledger, place: Path | str) -> Relocated:
    with contextlib.closing(database_at(place)) as target:
        return relocate(source, target)


def contents(ledger: Ledger) -> object:
    with ledger.read() as connection:
        return projections.contents(connection)


def test_everything_arrives_as_it_was(source: Ledger, target: Path | str) -> None:
    before, tables = source.links(), contents(source)
    moved = move(source, target)
    with Ledger.open(target) as ledger:
        links = ledger.links()
        assert links[: len(before)] == before
        assert [link.kind for link in links[len(before) :]] == [LedgerMoved.kind, LedgerArrived.kind]
        assert contents(ledger) == tables
        assert queries.names(ledger, ["s-1", "s-3"]) == {"s-1": identity(1), "s-3": identity(3)}
        assert ledger.verify() == moved.head
        with ledger.lead() as lease:
            assert lease.epoch == 2


def test_the_old_ledger_can_be_read_and_says_where_it_went(source: Ledger, target: Path | str) -> None:
    before = len(source.events())
    move(source, target)
    with Ledger.open(source.where) as old:
        assert old.verify().seq == before + 1
        for write in (lambda: old.append([RiskAccepted(name="late")]), lambda: old.lead().__enter__()):
            with pytest.raises(ConflictError, match="was moved to") as caught:
                write()
            assert str(target) in caught.value.message
            assert "url" in caught.value.hint


def test_a_ledger_is_not_moved_under_its_controller(source: Ledger, target: Path | str) -> None:
    with Ledger.open(source.where) as other, other.lead(host="there"), pytest.raises(ConflictError, match="on there"):
        move(source, target)
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.open(target)


def test_what_is_written_while_it_is_copied_arrives_too(
    source: Ledger, target: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = Ledger.leave

    def late(ledger: Ledger, move: str, to: str) -> None:
        ledger.append([RiskAccepted(name="at the last moment")])
        leave(ledger, move, to)  # type: ignore[arg-type] - handed on

    monkeypatch.setattr(Ledger, "leave", late)
    move(source, target)
    with Ledger.open(target) as ledger:
        assert queries.accepted_risks(ledger) == ("at the last moment",)


def test_a_copy_that_differs_moves_nothing(source: Ledger, target: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relocation, "_copy_identities", lambda *_: None)
    with pytest.raises(LedgerError, match="names are not those"):
        move(source, target)
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.open(target)
    source.append([RiskAccepted(name="it goes on here")])
    source.verify()
    monkeypatch.undo()
    move(source, target)


def test_a_broken_ledger_is_not_moved(tmp_path: Path, postgresql: postgresql_world.Server) -> None:
    with new_ledger(postgresql.fresh()) as source:
        small_campaign(source)
        postgresql.execute("UPDATE scores SET value = '0.1'", url=str(source.where))
        with pytest.raises(LedgerError, match="table scores"):
            move(source, tmp_path / "ledger.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_moving_twice_is_moving_once(source: Ledger, target: Path | str) -> None:
    first = move(source, target)
    with Ledger.open(target) as ledger:
        ledger.append([RiskAccepted(name="since")])
    again = move(source, target)
    assert (again.earlier, again.head.seq) == (True, first.head.seq + 1)


def test_a_moved_ledger_is_not_moved_to_a_third_place(
    source: Ledger, target: Path | str, tmp_path: Path, postgresql: postgresql_world.Server
) -> None:
    move(source, target)
    for third in (tmp_path / "third.sqlite", postgresql.fresh()):
        with pytest.raises(ConflictError, match="was moved to"):
            move(source, third)


def test_another_ledger_in_the_way_is_left_alone(source: Ledger, target: Path | str) -> None:
    with new_ledger(target) as other:
        other.append([phase(), imported(9)])
        head = other.head()
        with pytest.raises(ConflictError, match="another ledger"):
            move(source, target)
        assert other.head() == head
    source.append([RiskAccepted(name="it goes on here")])


def test_there_and_back_again(source: Ledger, target: Path | str) -> None:
    home = source.where
    source.close()
    with Ledger.open(home) as ledger:
        move(ledger, target)
    with Ledger.open(target) as ledger:
        ledger.append([RiskAccepted(name="abroad")])
        back = move(ledger, home)
    assert back.set_aside is not None
    with Ledger.open(home) as ledger:
        ledger.append([RiskAccepted(name="at home")])
        assert queries.accepted_risks(ledger) == ("abroad", "at home")
        ledger.verify()


def test_the_same_place_is_no_move(source: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="already"):
        move(source, source.where)


def test_a_move_that_is_killed_is_completed_by_the_next(source: Ledger, target: Path | str) -> None:
    chance = random.Random(3)
    before = len(source.events())
    command = [sys.executable, ledger_process.__file__, str(source.where), "relocate", str(target)]
    ended = []
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mover:
            assert mover.stdout is not None
            assert mover.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.4))
            mover.send_signal(signal.SIGKILL)
            mover.wait()
        with contextlib.suppress(LedgerError), Ledger.open(target) as there:
            there.verify()
            # As soon as it can be seen at the new place, nothing can be added at the old one.
            with pytest.raises(ConflictError, match="was moved to"):
                source.append([RiskAccepted(name="twice")])
            ended.append(True)
    move(source, target)
    with Ledger.open(target) as ledger:
        ledger.verify()
        kinds = [link.kind for link in ledger.links()[before:]]
    assert kinds == [LedgerMoved.kind, LedgerArrived.kind]


# Calling a move off


class KilledError(BaseException):
    """The mover is gone, at once."""


def closed_and_not_arrived(source: Ledger, target: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mover that was killed after it closed the old ledger."""

    def vanish(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(relocation, "_copy_identities", vanish)
        patch.setattr(type(source), "arrive", vanish)  # nobody is left to open it again
        with pytest.raises(KilledError):
            move(source, target)
    with pytest.raises(ConflictError, match="was moved to"):
        source.append([RiskAccepted(name="closed")])


def call_off(source: Ledger, place: Path | str, **how: bool) -> None:
    with contextlib.closing(database_at(place)) as target:
        abandon(source, target, "The server burnt.", **how)


def test_a_move_that_never_arrived_is_called_off_and_nothing_is_lost(
    source: Ledger, target: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tables = source.links(), contents(source)
    closed_and_not_arrived(source, target, monkeypatch)
    call_off(source, target)
    assert source.links()[: len(before)] == before
    assert [link.kind for link in source.links()[len(before) :]] == [LedgerMoved.kind, LedgerArrived.kind]
    assert source.events()[-1].event == LedgerArrived(
        move=source.events()[-2].event.move,  # type: ignore[attr-defined]  # the one that closed it
        abandoned="The server burnt.",
    )
    assert contents(source) == tables
    source.append([RiskAccepted(name="it goes on")])
    move(source, target)  # and it can be moved later
    with Ledger.open(target) as ledger:
        ledger.verify()
        assert queries.accepted_risks(ledger) == ("it goes on",)


def test_a_move_that_arrived_or_went_elsewhere_is_not_called_off(
    source: Ledger, target: Path | str, tmp_path: Path, postgresql: postgresql_world.Server
) -> None:
    with pytest.raises(ConflictError, match="No move has closed"):
        call_off(source, target)
    move(source, target)
    for lost in (False, True):
        with pytest.raises(ConflictError, match="has arrived"):
            call_off(source, target, lost=lost)
    for third in (tmp_path / "third.sqlite", postgresql.fresh()):
        with pytest.raises(ConflictError, match="was moved to"):
            call_off(source, third, lost=True)
    with pytest.raises(ConflictError, match="was moved to"):
        source.append([RiskAccepted(name="twice")])


def test_a_place_that_cannot_be_seen_is_lost_only_if_it_is_said(
    source: Ledger, target: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_and_not_arrived(source, target, monkeypatch)

    def silent(_: object) -> None:
        raise HostError("Nobody answers there.", hint="Start it.")

    monkeypatch.setattr(relocation, "_links_at", silent)
    with pytest.raises(ConflictError, match=r"cannot be seen\. Nobody answers there\.") as refused:
        call_off(source, target)
    assert "--lost" in (refused.value.hint or "")
    call_off(source, target, lost=True)
    source.append([RiskAccepted(name="it goes on")])
    source.verify()
