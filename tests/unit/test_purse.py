"""What an attempt may cost beyond its limit is set aside before it is started."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from campaign_world import Stage

from referee.attempts import AttemptSpec, Measurements
from referee.challenge import MachineType
from referee.engines.memory import Play
from referee.orders import Orders, Purse

DEAR = MachineType(cpus=8, memory=2**35, price=Decimal(3))


def test_the_budget_leaves_room_for_boots_start_up_and_what_probes_have_cost() -> None:
    booting = DEAR.model_copy(update={"boot": timedelta(minutes=10)})

    def started(budget: str, machine: MachineType, aside: str = "0") -> int:
        purse = Purse(Decimal(budget), (), {"dear": machine}, timedelta(hours=1), Decimal(aside))
        return sum(purse.pays("dear", 1.0) for _ in range(20))

    assert started("30", DEAR) == 10
    assert started("30", booting) == 8  # each may need a fresh machine: $3.50
    assert started("30", DEAR, aside="5") == 8


def test_the_longest_start_up_so_far_is_set_aside_for_each_attempt(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=2)
    measured = Measurements(wall_seconds=1, cpu_seconds=1, peak_memory_bytes=1, preparation_seconds=1800)

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(1801, predictions=b"filename,label\na.mp4,0.5\n", rows=1, measurements=measured)

    engine = stage.engine(script, machines={"dear": DEAR}, nodes={"dear": ["n1"]})
    stage.run(engine, Orders(only=frozenset({"s-000.test"})))
    attempts = stage.attempts()
    purse = Purse(Decimal(10), attempts, {"dear": DEAR}, timedelta(hours=1))
    # $1.50 are spent; each further attempt may take an hour and a half.
    assert sum(purse.pays("dear", 1.0) for _ in range(20)) == 1
