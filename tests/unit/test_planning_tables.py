"""What the operator reads: tables, pictures' data, warnings; and how attempts become what the planner learns from."""

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest

from referee.planning.advice import advise
from referee.planning.catalogue import HISTORICAL, Catalogue, own_offers, shipped_catalogue, this_machine
from referee.planning.drift import Drift
from referee.planning.forecast import Forecast, Stratum, forecast
from referee.planning.groups import Group
from referee.planning.observation import Observation, Requirement, groups_of
from referee.planning.planner import Wishes, make_plan
from referee.planning.rehearsal import rehearse, with_machines
from referee.planning.runtime import Runtimes
from referee.planning.spot import LossRate
from referee.planning.tables import burn_up, cost_against_deadline, machines_table, plan_table, runtime_quantiles

GIB = 2**30
CLOUD = shipped_catalogue(HISTORICAL).only(["g4dn.xlarge"])


def group(size: int = 3528) -> Group:
    hours = np.minimum(np.random.default_rng(1).lognormal(1.7, 0.8, 64), 19.0)
    return Group("gpu", size, 4, 8 * GIB, 1, 12 * GIB, {"g4dn.xlarge": Runtimes(hours, np.ones(64, np.bool_), 19.0)})


def seen() -> Forecast:
    runtimes = group().seen["g4dn.xlarge"]
    return forecast([Stratum("gpu", 3528, "g4dn.xlarge", 0.526, runtimes)], {"g4dn.xlarge": 60})


def test_the_catalogue_shows_price_date_and_source_of_every_type() -> None:
    table = machines_table(shipped_catalogue(HISTORICAL).joined(own_offers({})))
    row = next(row for row in table.rows if row[0] == "g4dn.xlarge")
    assert "T4" in row[3]
    assert row[4] == "0.526"
    assert row[8] == "2020-08-30"
    assert "2021-04-01" in row[9]
    assert all(len(row) == len(table.columns) for row in table.rows)
    (note,) = table.notes  # all alike
    assert note.startswith(
        "c4.large to p3dn.24xlarge (62 types): a boot takes 2m, billed in steps of 1s, for at least 1m"
    )
    assert "first hour costs nothing" in note


def test_less_than_a_cent_is_not_nothing() -> None:
    here = this_machine(4, 16 * GIB, Decimal("0.0001"))
    short = Runtimes(np.full(9, 0.001), np.ones(9, np.bool_), 0.01)
    needs = [Group("cpu", 12, 1, GIB, 0, 0, {"local": short})]
    said = [
        " ".join(plan_table(make_plan("c", "p", needs, Catalogue(name="own", offers={"local": each}), Wishes())).notes)
        for each in (here, this_machine(4, 16 * GIB))
    ]
    assert "In all it costs less than a cent." in said[0]
    assert "These machines cost nothing." in said[1]


def test_the_plan_is_shown_with_what_it_rests_on() -> None:
    table = plan_table(make_plan("c", "p", [group()], CLOUD, Wishes(timedelta(days=21), Decimal(20_000))))
    assert table.rows[0][0] == "g4dn.xlarge"
    assert table.rows[0][2] == "3464"
    text = " ".join(table.notes)
    for said in ("64 of 3528", "probability", "No assignment", "of the width", "One more day", "2020-08-30"):
        assert said in text


def test_the_fan_widens_from_now_on() -> None:
    picture = burn_up([3.0, 1.0, 2.0], 4.0, seen())
    assert picture.past == ((1.0, 1), (2.0, 2), (3.0, 3))
    ends = [hours for _, hours in picture.fan]
    assert ends == sorted(ends)
    assert ends[0] > 4.0


def test_an_earlier_deadline_needs_more_machines_until_there_is_no_plan() -> None:
    points = cost_against_deadline([group()], CLOUD, Wishes(), [0.5, 7, 21])
    assert points[0].usd is None
    assert points[1].machines is not None
    assert points[2].machines is not None
    assert points[1].machines > points[2].machines


def test_runtimes_are_shown_by_machine_type() -> None:
    quantiles = runtime_quantiles(group())["g4dn.xlarge"]
    assert list(quantiles) == sorted(quantiles)
    assert quantiles[2] == pytest.approx(np.median(group().seen["g4dn.xlarge"].hours), rel=0.1)


def test_danger_is_announced_with_a_proposal() -> None:
    forecast_now = seen()
    late = advise(forecast_now, {"g4dn.xlarge": 60}, deadline_hours=forecast_now.end_hours.mid)
    assert [said.danger for said in late] == ["deadline"]
    assert late[0].proposal.startswith("Add ")
    assert " late" in late[0].sentence
    dear = advise(forecast_now, {"g4dn.xlarge": 60}, budget_usd=forecast_now.cost.mid)
    assert [said.danger for said in dear] == ["budget"]
    drift = Drift("longer", 400, 1.4)
    assert advise(forecast_now, {}, drift=drift)[0].sentence.startswith("Evaluations take longer")
    calm = advise(forecast_now, {}, deadline_hours=1e6, budget_usd=1e9)
    assert calm == []
    assert "on demand" not in late[0].proposal
    (taken_away,) = advise(forecast_now, {"g4dn.xlarge (spot)": 60}, deadline_hours=forecast_now.end_hours.mid)
    assert "on demand instead of on spot capacity" in taken_away.proposal


def test_all_attempts_of_an_evaluation_are_paid_so_all_count() -> None:
    observations = [
        Observation("a", "cpu", "local", 1.0, final=False),
        Observation("a", "cpu", "local", 2.0, final=True),
        Observation("b", "cpu", "local", 4.0, final=True),
        Observation("c", "cpu", "local", 0.5, final=False),
        Observation("g", "gpu", "lab", 0.5, final=True),
    ]
    needs = {"cpu": Requirement(1, GIB), "gpu": Requirement(1, GIB, 1, GIB)}
    cpu, gpu = groups_of(observations, {"cpu": 9, "gpu": 2}, needs, {"local": 5.0, "lab": 5.0})
    assert cpu.started == 3
    assert sorted(cpu.seen["local"].hours) == [0.5, 3.0, 4.0]
    assert int(cpu.seen["local"].ended.sum()) == 2
    assert gpu.seen["lab"].hours.tolist() == [0.5]
    assert gpu.gpus == 1
    here = Catalogue(name="own", offers={"local": this_machine(2, 8 * GIB)})
    assert make_plan("c", "p", [cpu], here, Wishes()).started == 3


@pytest.mark.parametrize("spot", [None, LossRate(1000.0, 20_000.0)], ids=["on-demand", "spot"])
def test_a_plan_that_is_rehearsed_comes_out_as_it_was_forecast(spot: LossRate | None) -> None:
    wishes = Wishes(timedelta(days=21), Decimal(30_000), spot=spot)
    plan = make_plan("c", "p", [group()], CLOUD, wishes)
    ran = rehearse(plan, [group()], CLOUD, replicates=500 if spot is None else 60, losses=spot)
    assert ran.in_time is not None
    assert ran.in_budget == 1.0
    if spot is None:
        assert ran.in_time >= 0.92
        assert ran.usd.mid == pytest.approx(float(plan.cost.mid), rel=0.05)
        assert ran.end_hours.mid == pytest.approx(plan.end_hours.mid, rel=0.05)
        assert ran.losses == 0
    else:
        assert ran.losses > 10
        assert ran.usd.mid == pytest.approx(float(plan.cost.mid), rel=0.1)
    most = max(number for _, number in ran.fleet)
    assert most == pytest.approx(plan.pools[-1].machines, rel=0.2)


def test_half_the_machines_take_about_twice_as_long() -> None:
    plan = make_plan("c", "p", [group()], CLOUD, Wishes(timedelta(days=21)))
    slower = with_machines(plan, {"g4dn.xlarge": plan.pools[0].machines // 2})
    fast, slow = (rehearse(each, [group()], CLOUD, replicates=50).end_hours.mid for each in (plan, slower))
    assert slow == pytest.approx(2 * fast, rel=0.1)
