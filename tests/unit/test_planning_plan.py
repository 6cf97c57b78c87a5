"""From a pilot to a plan that is written, read again, and kept."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from referee.errors import ConfigurationError
from referee.planning.assignment import NoPlanError
from referee.planning.catalogue import HISTORICAL, Catalogue, shipped_catalogue, this_machine
from referee.planning.groups import Group
from referee.planning.plan import read_plan, write_plan
from referee.planning.planner import Wishes, make_plan
from referee.planning.runtime import Runtimes
from referee.planning.simulation import Pool, simulate
from referee.planning.spot import LossRate

GIB = 2**30
CLOUD = shipped_catalogue(HISTORICAL).only(["g4dn.xlarge", "p3.2xlarge", "c5.xlarge"])


def hours(number: int, seed: int) -> np.ndarray:
    return np.minimum(np.random.default_rng(seed).lognormal(1.7, 0.8, number), 19.0)


def pilot(seed: int = 1) -> list[Group]:
    def ended(number: int, seed: int) -> Runtimes:
        return Runtimes(hours(number, seed), np.ones(number, dtype=np.bool_), 19.0)

    return [
        Group("gpu", 3528, 4, 8 * GIB, 1, 12 * GIB, {"g4dn.xlarge": ended(64, seed)}),
        Group("cpu", 672, 2, 4 * GIB, 0, 0, {"c5.xlarge": ended(20, seed + 1)}),
    ]


def test_a_plan_says_machines_cost_end_and_bound() -> None:
    plan = make_plan("dfdc", "private_test", pilot(), CLOUD, Wishes(timedelta(days=21), Decimal(50_000)))
    by_type = {pool.machine_type: pool for pool in plan.pools}
    assert set(by_type) == {"g4dn.xlarge", "c5.xlarge"}
    assert by_type["g4dn.xlarge"].evaluations == 3528 - 64
    assert by_type["g4dn.xlarge"].usd_per_hour == Decimal("0.526")
    assert "apache-libcloud 3.2.0" in by_type["g4dn.xlarge"].price_source
    assert plan.cost.low < plan.cost.mid < plan.cost.high < 50_000
    assert plan.probability_in_time is not None
    assert plan.probability_in_time >= 0.95
    assert plan.gap < 0.005
    assert plan.started == plan.ended == 84
    assert any("2020-08-30" in warning for warning in plan.warnings)


@pytest.mark.parametrize("seed", [1, 11])
def test_the_deadline_is_met_as_often_as_was_promised(seed: int) -> None:
    plan = make_plan("dfdc", "private_test", pilot(seed), CLOUD, Wishes(timedelta(days=14)))
    machines = {pool.machine_type: pool.machines for pool in plan.pools}
    # Worlds that the pilot could have been drawn from: its runtimes, drawn anew for every submission.
    rng, met = np.random.default_rng(9), []
    for group in pilot(seed):
        name, seen = next(iter(group.seen.items()))
        drawn = rng.choice(seen.hours, (100, group.size - group.started))
        met.append(simulate(Pool(machines[name], 1.0, 1 / 30), drawn).end_hours <= 14 * 24)
    assert np.mean(np.logical_and(*met)) >= 0.95


def test_less_time_needs_more_machines_and_more_confidence_too() -> None:
    def machines(days: int, confidence: float) -> int:
        wishes = Wishes(timedelta(days=days), confidence=confidence)
        return sum(pool.machines for pool in make_plan("c", "p", pilot(), CLOUD, wishes).pools)

    assert machines(14, 0.95) > machines(21, 0.95) > machines(21, 0.6)


def test_a_plan_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    plan = make_plan("dfdc", "private_test", pilot(), CLOUD, Wishes(timedelta(days=21)))
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text('{"version": 9}')
    with pytest.raises(ConfigurationError, match="not a plan of this version"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(ConfigurationError, match="no plan"):
        read_plan(tmp_path / "none.json")


def test_this_machine_is_planned_like_any_other() -> None:
    seen = Runtimes(np.array([0.001, 0.002, 0.003]), np.array([True, True, True]), 0.01)
    here = Catalogue(name="own", offers={"local": this_machine(2, 8 * GIB, slots=2)})
    plan = make_plan("demo", "private_test", [Group("cpu", 15, 1, GIB, 0, 0, {"local": seen})], here, Wishes())
    assert [(pool.machine_type, pool.machines) for pool in plan.pools] == [("local", 2)]
    assert plan.cost.high == 0
    assert 0 < plan.end_hours.low < plan.end_hours.high < 0.1
    assert plan.evaluations == 15
    assert plan.started == 3


def test_what_fits_no_machine_is_left_out_and_said() -> None:
    seen = Runtimes(np.array([0.001, 0.002, 0.003]), np.array([True, True, True]), 0.01)
    here = Catalogue(name="own", offers={"local": this_machine(2, 8 * GIB)})
    groups = [Group("cpu", 15, 1, GIB, 0, 0, {"local": seen}), Group("gpu", 1, 1, GIB, 1, 0, {})]
    plan = make_plan("demo", "private_test", groups, here, Wishes())
    assert plan.evaluations == 15
    assert "1 gpu evaluation fits no machine type" in " ".join(plan.warnings)
    with pytest.raises(ConfigurationError, match="No evaluation fits"):
        make_plan("demo", "private_test", groups[1:], here, Wishes())


def test_where_nothing_waits_there_is_still_a_plan_that_says_so() -> None:
    seen = Runtimes(np.array([0.001, 0.002, 0.003]), np.array([True, True, True]), 0.01)
    here = Catalogue(name="own", offers={"local": this_machine(2, 8 * GIB)})
    plan = make_plan("demo", "private_test", [Group("cpu", 3, 1, GIB, 0, 0, {"local": seen})], here, Wishes())
    assert plan.end_hours.high == pytest.approx(0.0, abs=1e-9)
    assert plan.assignment == {}


def test_with_quotas_some_go_to_the_dearer_type_and_what_more_would_save_is_said() -> None:
    offers = dict(CLOUD.offers)
    offers["p3.2xlarge"] = offers["p3.2xlarge"].model_copy(update={"speed": 2.1})
    wishes = Wishes(timedelta(days=14), quotas={"G and VT": 240.0})
    plan = make_plan("dfdc", "p", pilot(), Catalogue(name="x", offers=offers), wishes)
    pools = {pool.machine_type: pool for pool in plan.pools}
    assert pools["p3.2xlarge"].evaluations > 100
    assert pools["g4dn.xlarge"].machines <= 60
    assert plan.price_of_confidence_usd > 0
    assert any("10 more machines in G and VT would save" in change for change in plan.changes)
    assert any("speed of p3.2xlarge" in driver for driver in plan.drivers)


def test_spot_is_used_where_it_saves() -> None:
    wishes = Wishes(timedelta(days=21), spot=LossRate.believed(0.02))
    plan = make_plan("dfdc", "p", pilot(), CLOUD, wishes)
    assert {(pool.machine_type, pool.market) for pool in plan.pools if pool.evaluations} == {
        ("g4dn.xlarge", "spot"),
        ("c5.xlarge", "on_demand"),
    }
    assert plan.cost.mid < make_plan("dfdc", "p", pilot(), CLOUD, Wishes(timedelta(days=21))).cost.mid


def test_that_nothing_can_be_had_on_spot_capacity_is_said() -> None:
    wishes = Wishes(timedelta(days=21), spot=LossRate.believed(0.02))
    own = Catalogue(name="own", offers={n: o.model_copy(update={"spot_price": None}) for n, o in CLOUD.offers.items()})
    plan = make_plan("d", "p", pilot(), own, wishes)
    assert any("No machine type here has a spot price" in said for said in plan.warnings)


def test_what_cannot_be_promised_is_refused_in_words() -> None:
    with pytest.raises(NoPlanError, match="longer than the deadline"):
        make_plan("dfdc", "p", pilot(), CLOUD, Wishes(timedelta(hours=2)))
    with pytest.raises(NoPlanError, match="keeps the budget"):
        make_plan("dfdc", "p", pilot(), CLOUD, Wishes(budget=Decimal(1000)))
    with pytest.raises(ConfigurationError, match="confidence"):
        Wishes(confidence=1.5)
    with pytest.raises(ConfigurationError, match="referee pilot"):
        make_plan("c", "p", [Group("gpu", 5, 1, GIB, 0, 0, {})], CLOUD, Wishes())


def test_what_ran_elsewhere_is_learned_from_but_not_taken_for_done() -> None:
    offers = dict(CLOUD.offers)
    offers["p3.2xlarge"] = offers["p3.2xlarge"].model_copy(update={"speed": 2.1})
    seen = Runtimes(hours(20, 1), np.ones(20, dtype=np.bool_), 19.0)
    group = Group("gpu", 100, 4, 8 * GIB, 1, 12 * GIB, {"p3.2xlarge": seen})
    plan = make_plan("c", "p", [group], Catalogue(name="x", offers=offers), Wishes(timedelta(days=21)))
    assert plan.assignment == {"gpu": {"g4dn.xlarge": 80}}
    assert plan.started == 20
    assert plan.hours.mid == pytest.approx(float(seen.hours.sum()) * (1 + 4 * 2.1))


def test_the_end_counts_from_the_request_for_machines() -> None:
    slow = {name: offer.model_copy(update={"boot": timedelta(hours=5)}) for name, offer in CLOUD.offers.items()}
    at_once = {name: offer.model_copy(update={"boot": None}) for name, offer in CLOUD.offers.items()}
    wishes = Wishes(timedelta(days=21))
    late, early = (
        make_plan("c", "p", pilot(), Catalogue(name="c", offers=offers), wishes) for offers in (slow, at_once)
    )
    if [pool.machines for pool in late.pools] == [pool.machines for pool in early.pools]:
        assert late.end_hours.mid == pytest.approx(early.end_hours.mid + 5, abs=0.1)
    else:  # the deadline holds with the boot in it
        assert sum(pool.machines for pool in late.pools) > sum(pool.machines for pool in early.pools)
    assert late.probability_in_time is not None
    assert late.probability_in_time >= 0.95


def test_more_machines_are_weighed_only_where_something_waits_for_them() -> None:
    gpu, cpu = pilot()
    done = Group("cpu", 20, 2, 4 * GIB, 0, 0, cpu.seen)
    plan = make_plan("c", "p", [gpu, done], CLOUD, Wishes(timedelta(days=21)))
    assert any("of g4dn.xlarge" in change for change in plan.changes)
    assert not any("of c5.xlarge" in change for change in plan.changes)
