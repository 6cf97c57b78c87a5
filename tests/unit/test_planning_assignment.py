"""Assignment: what fits, at least cost, within bounds, and close to the linear programming bound."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from referee.errors import ConfigurationError
from referee.planning.assignment import Assignment, Bounds, Need, NoPlanError, Option, assign, what_if

OPTIONS = (
    Option("t4", 0.526, "G", 4),
    Option("v100", 3.06, "P", 8),
    Option("cpu4", 0.17, "Standard", 4),
    Option("cpu16", 0.68, "Standard", 16),
)


def instance(number: int, seed: int, tightness: float = 0.7) -> tuple[list[Need], Bounds]:
    rng = np.random.default_rng(seed)
    needs = []
    for index in range(number):
        hours = float(rng.lognormal(1.5, 0.8))
        ratio = float(rng.lognormal(np.log(2.1), 0.25))
        fits = {"v100": hours} | ({"t4": hours * ratio} if rng.random() < 0.9 else {})
        needs.append(Need(f"e{index}", 1, fits))
    on_t4 = sum(need.hours.get("t4", 0.0) for need in needs)
    deadline = 300.0
    return needs, Bounds(deadline, quotas={"G": 4 * on_t4 / deadline * tightness, "P": 1e6})


def test_each_goes_to_the_cheapest_that_fits_where_nothing_is_scarce() -> None:
    needs = [
        Need("small", 10, {"t4": 4.0, "v100": 2.0}),
        Need("large", 3, {"v100": 2.0}),
        Need("serial", 5, {"cpu4": 6.0, "cpu16": 6.0}),
    ]
    found = assign(needs, OPTIONS, Bounds())
    assert found.counts == {("small", "t4"): 10, ("large", "v100"): 3, ("serial", "cpu4"): 5}
    assert found.usd == pytest.approx(40 * 0.526 + 6 * 3.06 + 30 * 0.17)
    assert found.gap == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_of_400_is_within_half_a_percent_of_the_bound_and_keeps_its_quota(seed: int) -> None:
    needs, bounds = instance(400, seed)
    found = assign(needs, OPTIONS, bounds)
    assert not found.exact
    assert found.gap + 1e-9 >= 0
    assert found.gap < 0.005
    assert sum(found.counts.values()) == 400
    assert bounds.quotas is not None
    assert bounds.usable_hours is not None
    assert 4 * found.hours["t4"] <= bounds.quotas["G"] * bounds.usable_hours * (1 + 1e-6)


def test_where_quotas_couple_dear_and_cheap_machines_whole_evaluations_lose_almost_nothing() -> None:
    rng = np.random.default_rng([20_261_122, 400, 5])
    lengths, ratio = rng.lognormal(1.5, 0.8, 400), rng.lognormal(np.log(2.1), 0.25, 400)
    needs = [
        Need(f"e{i}", 1, {"v100": hours, "t4": hours * slower, "t4-large": 0.97 * hours * slower})
        for i, (hours, slower) in enumerate(zip(lengths.tolist(), ratio.tolist(), strict=True))
    ]
    options = [*OPTIONS[:2], Option("t4-large", 0.752, "G", 8)]
    scarce = 4 * float((lengths * ratio).sum()) / 504 * 0.5
    found = assign(needs, options, Bounds(504.0, quotas={"G": scarce, "P": 1e6}))
    assert not found.exact
    assert 0 <= found.gap < 0.0005


def brute_force(needs: list[Need], bounds: Bounds) -> float:
    price = {option.name: option for option in OPTIONS}
    best = float("inf")
    for choice in itertools.product(*(need.hours for need in needs)):
        on_t4 = sum(n.hours[o] for n, o in zip(needs, choice, strict=True) if o == "t4")
        usd = sum(n.hours[o] * price[o].usd_per_hour for n, o in zip(needs, choice, strict=True))
        if 4 * on_t4 <= (bounds.quotas or {})["G"] * (bounds.usable_hours or 0.0):
            best = min(best, usd)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_a_small_plan_is_the_best_of_all(seed: int) -> None:
    needs, bounds = instance(9, seed)
    assert assign(needs, OPTIONS, bounds).usd == pytest.approx(brute_force(needs, bounds), rel=1e-6)


def test_what_cannot_be_kept_is_named() -> None:
    needs = [Need("a", 100, {"t4": 10.0})]
    with pytest.raises(NoPlanError, match=r"^No plan keeps the budget\. Give"):
        assign(needs, OPTIONS, Bounds(budget_usd=100.0))
    with pytest.raises(NoPlanError, match="the deadline and the quotas together; there is one without the deadline or"):
        assign(needs, OPTIONS, Bounds(deadline_hours=10.0, quotas={"G": 8}))
    with pytest.raises(NoPlanError, match="the budget, the deadline and the quotas together; nor all but one of them"):
        assign(needs, OPTIONS, Bounds(deadline_hours=10.0, budget_usd=100.0, quotas={"G": 8}))


def test_the_deadline_that_would_do_is_named_and_does() -> None:
    needs, bounds = [Need("a", 100, {"t4": 10.0})], Bounds(deadline_hours=10.0, quotas={"G": 8})
    with pytest.raises(NoPlanError) as caught:
        assign(needs, OPTIONS, bounds)
    days = int(re.fullmatch(r"About (\d+) days would do; .*", caught.value.hint)[1])  # type: ignore[index] # it matches
    assert assign(needs, OPTIONS, replace(bounds, deadline_hours=24.0 * (days + 1))).counts
    with pytest.raises(NoPlanError):
        assign(needs, OPTIONS, replace(bounds, deadline_hours=24.0 * (days - 2)))


def test_what_fits_no_type_is_named() -> None:
    with pytest.raises(ConfigurationError, match="No machine type fits b"):
        assign([Need("b", 1, {})], OPTIONS, Bounds())


def test_the_price_of_confidence_and_of_the_tail_is_in_the_reserve() -> None:
    needs, bounds = instance(60, 3)
    safer = Bounds(bounds.deadline_hours, reserve=1.2, tail_hours=10.0, quotas=bounds.quotas)
    assert assign(needs, OPTIONS, safer).usd > assign(needs, OPTIONS, bounds).usd


def test_machines_are_as_many_as_the_deadline_asks_for() -> None:
    found = Assignment({}, 0.0, 0.0, {"t4": 1000.0, "v100": 0.0}, True)
    assert found.machines(Bounds(deadline_hours=110.0, tail_hours=10.0)) == {"t4": 10}
    assert found.machines(Bounds()) == {"t4": 1}


def test_own_machines_are_only_so_many() -> None:
    options = [Option("lab", 0.0, machines=2), OPTIONS[0]]
    found = assign([Need("a", 50, {"lab": 5.0, "t4": 5.0})], options, Bounds(deadline_hours=50.0))
    assert found.counts == {("a", "lab"): 20, ("a", "t4"): 30}


def test_what_a_change_would_do_is_said_in_plain_words() -> None:
    needs, bounds = instance(60, 3, 0.4)
    said = {found.change: found for found in what_if(needs, OPTIONS, bounds, assign(needs, OPTIONS, bounds), 1)}
    more = said["1 more machines in G"]
    assert more.usd is not None
    assert "would save $" in more.sentence
    later = said["a deadline 3 days later"]
    assert "save" in later.sentence
    assert "would cost $" in said["1 fewer machines in G"].sentence
