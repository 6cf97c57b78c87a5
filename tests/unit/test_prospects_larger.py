"""A larger campaign through the real controller in virtual time: what was forecast on the way, and what came."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
from prospects_world import MACHINES, Season, lengths

from referee.ledger import CampaignWarned, ForecastMade, Ledger, queries
from referee.orders import Orders
from referee.planning.planner import Wishes
from referee.prospects import drawing, execution, fleet, proposal
from referee.prospects.hindsight import held, hindsight
from referee.prospects.outlook import outlook
from referee.prospects.watch import Watch, forecast_made

SIZE, PILOT = 300, 40
FAST = """[machines.fast]
cpus = 8
memory = "64GiB"
price = "1.80"
speed = 2
count = 4
"""


def test_forecasts_from_the_pilot_to_the_end_hold_what_comes(tmp_path: Path) -> None:
    failing = frozenset(f"s-{number:03d}" for number in range(0, SIZE, 17))
    season = Season(tmp_path, lengths(SIZE, seed=11), MACHINES.replace("count = 4", "count = 15") + FAST, failing)
    challenge = season.stage.challenge
    with season.ledger() as ledger:
        pilot = drawing.draw(drawing.candidates(challenge, ledger, "test", challenge.machines), PILOT, seed=0)
    season.run(drawing.pilot_orders(challenge, challenge.machines, pilot, dict.fromkeys(pilot, "cpu")))
    with season.ledger() as ledger:
        seen = outlook(challenge, ledger, "test", season.now)
        assert seen is not None
        ledger.append([forecast_made(seen, "pilot")])
        wishes = Wishes(timedelta(hours=7), Decimal(60), 0.9)
        made = proposal.propose(challenge, ledger, "test", fleet.fleet(challenge), wishes, season.now)
        execution.check(made.plan, challenge, "test", challenge.machines, PILOT)
        with ledger.lead() as lease:
            lease.append([execution.confirmation(made.plan)])
        orders = execution.standing_orders(challenge, ledger, "test", challenge.machines)
        watch = Watch(challenge, ledger, "test", lambda: season.now)
        began = season.now
        season_run(season, orders, watch)
    with season.ledger() as ledger:
        found = hindsight(challenge, ledger, "test", season.now)
        warned = [each.event for each in ledger.events(CampaignWarned)]
        recorded = len(ledger.events(ForecastMade))
        used = queries.attempts(ledger, phase="test")
    assert found is not None
    came = found.outcome
    assert came is not None
    # The plan was carried out: machine types as assigned, deadline and budget kept, nobody warned for nothing.
    planned = [row.machine_type for row in used if row.evaluation not in pilot]
    assert {name: planned.count(name) for name in set(planned)} == made.plan.assignment["cpu"]
    assert came.end - began <= timedelta(hours=7)
    assert came.usd <= 60
    assert warned == []
    # 90% intervals of pilot and plan; those made on the way are not independent, so most of them.
    for each in found.forecasts:
        if each.moment != "run":
            assert held(each.hours[0], each.hours[2], came.hours)
            assert held(float(each.usd[0]), float(each.usd[2]), float(came.usd))
    running = [each for each in found.forecasts if each.moment == "run"]
    assert len(running) == recorded - 1 >= 10
    for holds in (
        [held(each.hours[0], each.hours[2], came.hours) for each in running],
        [each.ends[0] - timedelta(minutes=1) <= came.end <= each.ends[2] + timedelta(minutes=1) for each in running],
    ):
        assert np.mean(holds) >= 0.7
    # And they narrow.
    assert running[-1].hours[2] - running[-1].hours[0] < 0.5 * (running[0].hours[2] - running[0].hours[0])


def season_run(season: Season, orders: Orders | None, watch: Watch) -> None:
    """Run it while the watch looks."""

    def look(_ledger: Ledger) -> None:
        watch.look()

    season.run(orders, on_step=look)
