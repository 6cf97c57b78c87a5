"""Machines that are hired for a campaign: what they cost beside its attempts is spent money, and their end is told."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from campaign_world import Stage

from referee.attempts import AttemptSpec
from referee.campaign.spending import beside_usd
from referee.challenge import MachineType
from referee.cli.campaigns import say_what_is_up
from referee.engines.contract import Hiring
from referee.engines.machine_lives import MachineLife
from referee.engines.memory import MemoryEngine, Play
from referee.ledger.queries import AttemptRow
from referee.orders import Orders
from referee.verdicts import Verdict

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PAID = MachineType(cpus=4, memory=2**34, price=Decimal(60), reference=True)  # a dollar a minute


def at(minutes: float) -> datetime:
    return BEGIN + timedelta(minutes=minutes)


def life(minutes: float, *, gone: bool = True, node: str = "i-1") -> MachineLife:
    return MachineLife(node=node, machine_type="paid", launched_at=BEGIN, seen_at=at(minutes), gone=gone)


def row(begin: float | None, end: float | None, node: str = "i-1") -> AttemptRow:
    facts: dict[str, object] = dict.fromkeys(AttemptRow.__dataclass_fields__)
    facts |= {"node": node, "verdict": Verdict.OK}
    facts |= {"started_at": None if begin is None else at(begin), "ended_at": None if end is None else at(end)}
    return AttemptRow(**facts)  # type: ignore[arg-type]  # what is not read is left out


def beside(lives: Sequence[MachineLife], rows: Sequence[AttemptRow], elsewhere: Sequence[str] = ()) -> Decimal:
    return beside_usd(lives, rows, {"paid": PAID}, elsewhere)


def test_boot_idle_and_tail_are_spent_and_what_neighbours_share_is_not() -> None:
    assert beside([life(60)], [row(5, 20), row(10, 30), row(40, 50)]) == 5 + 10 + 10
    assert beside([life(60)], [row(0, 60)]) == 0
    assert beside([life(60)], []) == 60


def test_of_a_machine_that_is_up_only_what_went_before_its_last_attempts_end_is_counted() -> None:
    assert beside([life(60, gone=False)], [row(5, 20)]) == 5
    assert beside([life(60, gone=False)], []) == 0


def test_another_phases_machine_is_not_this_ones() -> None:
    assert beside([life(60)], [], ["i-1"]) == 0
    assert beside([life(60)], [row(5, 20)], ["i-1"]) == 45
    assert beside([life(60)], [row(None, None)], ["i-1"]) == 0  # it is set aside whole: nobody knows when it ran


class HiredMachines(MemoryEngine):
    """The memory engine; its machines are said to have lived for an hour each, mostly idle."""

    up_now: Sequence[str] | None = ()

    def lives(self) -> Sequence[MachineLife]:
        return [life(1, node=f"n{number}") for number in range(3)]

    def up(self) -> Sequence[str] | None:
        return self.up_now


def test_what_machines_cost_beside_attempts_is_of_the_budget(tmp_path: Path) -> None:
    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(seconds=10, predictions=b"filename,label\na.mp4,0.5\n", rows=1)

    def ended(engine: type[MemoryEngine]) -> int:
        folder = tmp_path / engine.__name__
        folder.mkdir()
        stage = Stage(folder, count=40, text='[limits]\nwall_time = "30s"\n')
        stage.run(engine(stage.objects, script, machines={"paid": PAID}, slots=1), Orders(budget_usd=Decimal("5.10")))
        return sum(count for verdict, count in stage.verdicts().items() if verdict is Verdict.OK)

    # Ten seconds cost 1/6 and may cost 1/2; three minutes of idle machines cost 3.
    assert ended(MemoryEngine) == 28
    assert ended(HiredMachines) == 10


@pytest.mark.parametrize(
    ("up", "words"),
    [((), "None of the machines is up any more."), (("i-1", "i-2"), "i-1, i-2"), (None, "could not be asked")],
)
def test_the_end_of_a_campaign_says_which_machines_are_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], up: Sequence[str] | None, words: str
) -> None:
    stage = Stage(tmp_path, count=1)
    engine = HiredMachines(stage.objects, lambda *_: Play(), machines={"paid": PAID})
    assert isinstance(engine, Hiring)
    engine.up_now = up
    say_what_is_up(engine)
    said = capsys.readouterr()
    assert words in said.out + said.err
