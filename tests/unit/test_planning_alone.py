"""`engine.aws.alone`: each evaluation boots a machine for itself, and plan, simulation and outlook count it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from campaign_world import Stage
from prospects_world import MACHINES, Season, lengths

from referee.orders import Orders
from referee.planning.catalogue import Catalogue
from referee.planning.groups import Group, spent_usd
from referee.planning.plan import Plan
from referee.planning.planner import Wishes, make_plan
from referee.planning.rehearsal import rehearse
from referee.planning.runtime import Runtimes
from referee.planning.spot import LossRate
from referee.prospects import fleet
from referee.prospects.hindsight import hindsight
from referee.prospects.outlook import outlook
from referee.prospects.watch import forecast_made

TEXT = """[engine]
name = "aws-batch"
[engine.aws]
stack = "referee"
alone = {alone}
[machines.m]
cpus = 4
memory = "16GiB"
price = "1"
spot_price = "0.25"
{boot}
"""
BOOT_HOURS = 0.1
SIZE, SEEN = 400, 40


def offers(folder: Path, *, alone: bool, boot: str = 'boot = "6m"') -> Catalogue:
    folder.mkdir()
    challenge = Stage(folder, count=1, text=TEXT.format(alone=str(alone).lower(), boot=boot)).challenge
    everywhere = fleet.fleet(challenge), fleet.used(challenge), fleet.everything(challenge, "aws-2022-03")
    assert {each.offers["m"].alone for each in everywhere} == {alone}
    return everywhere[0]


def piloted() -> Group:
    hours = np.random.default_rng(5).lognormal(-1.0, 0.5, SEEN)
    return Group("cpu", SIZE, 4, 2**30, 0, 0, {"m": Runtimes(hours, np.ones(SEEN, dtype=np.bool_), 9.0)})


def machine_boots(plan: Plan) -> float:
    return sum(pool.machines for pool in plan.pools) * BOOT_HOURS


def test_a_plan_counts_a_boot_for_each_evaluation_and_so_does_its_simulation(tmp_path: Path) -> None:
    group, wishes = piloted(), Wishes()
    kept, alone = (offers(tmp_path / str(each), alone=each) for each in (False, True))
    plans = [make_plan("c", "p", [group], each, wishes) for each in (kept, alone)]
    cost = [float(plan.cost.mid) for plan in plans]
    assert cost[1] - cost[0] == pytest.approx(SIZE * BOOT_HOURS - machine_boots(plans[0]), abs=0.02)
    assert plans[1].hours.mid - plans[0].hours.mid == pytest.approx(SIZE * BOOT_HOURS)
    assert spent_usd([group], alone) - spent_usd([group], kept) == pytest.approx(SEEN * BOOT_HOURS)
    one = plans[1].model_copy(update={"pools": (plans[1].pools[0].model_copy(update={"machines": 8}),)})
    ran = [rehearse(one, [group], each, replicates=200) for each in (kept, alone)]
    assert ran[1].usd.mid - ran[0].usd.mid == pytest.approx(SIZE * BOOT_HOURS - 8 * BOOT_HOURS, rel=0.02)
    assert ran[1].end_hours.mid > ran[0].end_hours.mid + (SIZE - SEEN) / 8 * BOOT_HOURS * 0.9


def test_spot_capacity_is_compared_with_a_boot_of_each_evaluation_in_both_markets(tmp_path: Path) -> None:
    alone = offers(tmp_path / "alone", alone=True, boot='boot = "2h"')
    [pool] = make_plan("c", "p", [piloted()], alone, Wishes(spot=LossRate(1e6, 1e6 / 0.2))).pools
    # Two hours of boot and half an hour of work: a quarter of the price and what losses add, less than all of it.
    assert pool.market == "spot"
    assert 0.25 * 2.4 < float(pool.usd_per_evaluation) < 2.4


def test_without_a_boot_time_it_says_that_none_is_counted(tmp_path: Path) -> None:
    alone = offers(tmp_path / "alone", alone=True, boot="")
    warnings = make_plan("c", "p", [piloted()], alone, Wishes()).warnings
    assert any("say no `boot`" in warning for warning in warnings)


def test_forecast_and_outcome_count_the_same_boots(tmp_path: Path) -> None:
    alone = '[engine]\nname = "aws-batch"\n[engine.aws]\nstack = "referee"\nalone = true'
    text = MACHINES.replace('[engine]\nname = "memory"', alone) + 'boot = "6m"\n'
    season = Season(tmp_path, lengths(40), text)
    season.run(Orders(only=frozenset(f"s-{number:03d}.test" for number in range(20))))
    with season.ledger() as ledger:
        seen = outlook(season.stage.challenge, ledger, "test", season.now)
        assert seen is not None
        ledger.append([forecast_made(seen, "pilot")])
    season.run()
    with season.ledger() as ledger:
        found = hindsight(season.stage.challenge, ledger, "test", season.now)
    assert found is not None
    assert found.outcome is not None
    ran = sum(season.seconds.values()) / 3600
    assert found.outcome.hours == pytest.approx(ran + 40 * BOOT_HOURS, rel=0.01)
    assert seen.forecast.hours.low < found.outcome.hours < seen.forecast.hours.high
