"""Spot capacity from the belief about losses to the plan, its simulation, and the market of each attempt."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from campaign_world import Stage, ok
from prospects_world import MACHINES, Season, lengths

from referee.attempts import AttemptSpec
from referee.campaign.markets import SPOT_TRIES, open_markets
from referee.challenge import MachineType, markets
from referee.engines.memory import Play
from referee.ledger import queries
from referee.orders import Orders
from referee.planning.plan import SpotLosses
from referee.planning.planner import Wishes
from referee.planning.spot import MOST_TRIES, LossRate
from referee.planning.tables import plan_table
from referee.policy import Outcome
from referee.prospects import fleet, proposal
from referee.prospects.interruptions import learned
from referee.verdicts import Verdict

SPOT = MACHINES.replace('price = "0.60"', 'price = "0.60"\nspot_price = "0.20"')
HALF = frozenset(f"s-{number:03d}.test" for number in range(30))


@pytest.fixture
def piloted(tmp_path: Path) -> Season:
    season = Season(tmp_path, lengths(60), SPOT)
    season.run(Orders(only=HALF))
    return season


def test_a_simulation_of_a_spot_plan_takes_its_machines_away(piloted: Season) -> None:
    challenge = piloted.stage.challenge
    with piloted.ledger() as ledger:
        wishes = Wishes(spot=LossRate(50.0, 100.0))
        plan = proposal.propose(challenge, ledger, "test", fleet.fleet(challenge), wishes, piloted.now).plan
        ran = proposal.rehearsed(challenge, ledger, plan, piloted.now, 50, 0).rehearsal
    assert [pool.market for pool in plan.pools if pool.evaluations] == ["spot"]
    assert plan.spot_losses == SpotLosses(losses=50.0, hours=100.0)
    waiting = sum(sorted(piloted.seconds.values())) / 3600 / 2
    assert ran.losses == pytest.approx(0.5 * waiting, rel=0.5)
    assert any("taken away 0.5 times an hour" in note for note in plan_table(plan).notes)


def test_the_rate_of_losses_is_learned_from_the_ledger(piloted: Season) -> None:
    with piloted.ledger() as ledger:
        rows = queries.attempts(ledger, phase="test")
    ended = [row for row in rows if row.verdict is not None]
    on_spot = [replace(row, machine_type="slow (spot)") for row in ended]
    lost = [replace(row, verdict=Verdict.NODE_LOST) for row in on_spot[:3]]
    before = LossRate.believed(0.01)
    assert learned(before, ended, piloted.now) == before
    in_vain = [replace(row, node=None, started_at=None, ended_at=None, measurements=None) for row in lost]  # waited so
    after = learned(before, [*lost, *on_spot[3:], *in_vain], piloted.now)
    assert after.losses == pytest.approx(before.losses + 3)
    up = sum((row.ended_at - row.started_at).total_seconds() for row in ended if row.ended_at and row.started_at) / 3600
    assert after.hours == pytest.approx(before.hours + up)


# The market of an attempt

A = MachineType(cpus=4, memory=2**34, price=Decimal("0.5"), spot_price=Decimal("0.1"), reference=True)
BOTH = markets({"a": A})


def lost(number: int, machine_type: str = "a (spot)") -> list[Outcome]:
    return [Outcome("e", Verdict.NODE_LOST, machine_type=machine_type)] * number


def test_spot_is_open_where_the_plan_has_it_until_it_was_taken_away_too_often() -> None:
    plan = ("a (spot)",)
    assert open_markets(BOTH, {"a (spot)"}, [], plan) == (BOTH, {"a (spot)"})
    assert open_markets(BOTH, {"a (spot)"}, lost(SPOT_TRIES - 1), plan) == (BOTH, {"a (spot)"})
    assert open_markets(BOTH, {"a (spot)"}, lost(SPOT_TRIES), plan) == ({"a": A}, {"a"})
    # What was lost on demand, or ended by the submission's doing, says nothing of spot capacity.
    assert open_markets(BOTH, {"a (spot)"}, lost(9, "a"), plan)[1] == {"a (spot)"}
    # Without a plan that has it, it is never used: nobody has confirmed it.
    assert open_markets(BOTH, None, [], ("a",)) == ({"a": A}, None)


def test_the_plan_reckons_with_as_many_tries_as_are_made() -> None:
    assert MOST_TRIES == SPOT_TRIES


@pytest.mark.parametrize("ordered", ["a (spot)", "a"])
def test_what_was_taken_away_twice_is_run_on_demand(tmp_path: Path, ordered: str) -> None:
    stage = Stage(tmp_path, count=2)

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(verdict=Verdict.NODE_LOST) if spec.machine_type.endswith("(spot)") else ok(spec, chance)

    nodes = {name: [f"{name}-{number}" for number in range(9)] for name in BOTH}
    engine = stage.engine(script, machines=BOTH, nodes=nodes)
    stage.run(engine, Orders(shares={"cpu": {ordered: 2}}, machines={ordered: 2}))
    assert stage.verdicts() == {Verdict.OK: 2}
    ran = Counter(row.machine_type for row in stage.attempts())
    assert ran == ({"a (spot)": 4, "a": 2} if ordered == "a (spot)" else {"a": 2})
