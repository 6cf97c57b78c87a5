"""The forecast: intervals that cover, drivers that are named, and an order of dispatch that can be believed."""

import numpy as np
import pytest
from scipy import stats

from referee.errors import ConfigurationError
from referee.planning.forecast import Stratum, forecast, half_width_after
from referee.planning.interval import Part, total_law
from referee.planning.pilot import allocate, draw_in_bands, pilot_count, with_public_runtimes
from referee.planning.runtime import Runtimes
from referee.planning.simulation import Pool, simulate

LIMIT = 19.0


def ended(hours: np.ndarray, limit: float = LIMIT) -> Runtimes:
    return Runtimes(hours, np.ones(hours.size, dtype=np.bool_), limit)


def lengths(rng: np.random.Generator, shape: int | tuple[int, int]) -> np.ndarray:
    return np.minimum(rng.lognormal(1.4, 0.8, shape), LIMIT)


def test_an_interval_of_a_symmetric_sample_is_the_t_interval_of_a_finite_population() -> None:
    law = total_law([Part(100, 2.0, 5.0, 0.04, 1.0, 0.0)])
    found = law.interval(0.9)
    half = stats.t.ppf(0.95, 24) * 2.0 * 100 * 0.2 * (1 - 25 / 100) ** 0.5
    assert (found.low, found.mid, found.high) == pytest.approx((1000 - half, 1000, 1000 + half))


def test_hours_are_positive_however_little_is_known() -> None:
    law = total_law([Part(100, 1.0, 5.0, 9.0, 27.0, 100.0)])
    assert 0 < float(law.quantile(0.001)) < float(law.quantile(0.05)) < 500 < float(law.quantile(0.95))


def test_of_a_stratum_that_has_ended_nothing_is_left_to_be_guessed() -> None:
    hours = lengths(np.random.default_rng(1), 50)
    seen = forecast([Stratum("gpu", 50, "t4", 0.5, ended(hours))], {"t4": 3}, confidence=0.9)
    assert seen.cost.low == pytest.approx(seen.cost.high) == pytest.approx(0.5 * hours.sum())
    assert seen.end_hours.high == pytest.approx(0.0, abs=1e-9)
    assert seen.ended == seen.size == 50


@pytest.mark.parametrize("started", [60, 400])
def test_the_intervals_cover_at_about_their_level(started: int) -> None:
    rng, size, machines = np.random.default_rng(2), 1000, 25
    hours = lengths(rng, (250, size))
    outcome = simulate(Pool(machines, 0.5), hours)
    of_cost = of_end = 0
    for row in range(250):
        seen = forecast(
            [Stratum("gpu", size, "t4", 0.5, ended(hours[row, :started]))], {"t4": machines}, replicates=300, seed=row
        )
        of_cost += seen.cost.low <= 0.5 * hours[row].sum() <= seen.cost.high
        before = simulate(Pool(machines, 0.5), hours[row : row + 1, :started]).machine_hours[0] / machines
        of_end += seen.end_hours.low <= outcome.end_hours[row] - before <= seen.end_hours.high
    # Four standard errors around 90%: the full study is `make bench-plan`.
    assert 0.82 < of_cost / 250 < 0.98
    assert 0.82 < of_end / 250 < 0.98


def test_a_campaign_in_flight_is_forecast_from_what_runs_and_what_has_ended() -> None:
    rng, machines = np.random.default_rng(3), 50
    hours = lengths(rng, (40, 2000))
    outcome = simulate(Pool(machines, 0.5), hours, trace=True)
    errors, naive = [], []
    for row in range(40):
        now = float(np.sort(outcome.ends[row])[200])
        started = outcome.starts[row] < now
        over = outcome.ends[row][started] <= now
        age = np.where(over, hours[row][started], now - outcome.starts[row][started])
        seen = forecast([Stratum("gpu", 2000, "t4", 0.5, Runtimes(age, over, LIMIT))], {"t4": machines}, replicates=200)
        errors.append(now + seen.end_hours.mid - outcome.end_hours[row])
        naive.append(2000 * age[over].mean() / machines - outcome.end_hours[row])
    truth = outcome.end_hours.mean()
    assert abs(np.mean(errors)) < 0.03 * truth
    assert np.mean(naive) < -0.08 * truth


def test_near_the_end_it_is_the_last_ones_that_count() -> None:
    seen = Runtimes(np.array([1.0, 2.0, 3.0, 8.0] * 20 + [2.5]), np.array([True] * 80 + [False]), 10.0)
    found = forecast([Stratum("gpu", 81, "t4", 1.0, seen)], {"t4": 10})
    assert found.end_hours.low >= 0.5 - 1e-9
    assert found.end_hours.high <= 7.5
    few_wait = forecast([Stratum("gpu", 83, "t4", 1.0, seen)], {"t4": 10})
    assert few_wait.end_hours.mid >= found.end_hours.mid


def test_the_deadline_is_answered_with_a_probability() -> None:
    found = forecast([Stratum("gpu", 1000, "t4", 0.5, ended(lengths(np.random.default_rng(4), 60)))], {"t4": 20})
    assert found.probability_of_end_by(found.end_hours.low) == pytest.approx(0.05, abs=0.02)
    assert found.probability_of_end_by(found.end_hours.high) == pytest.approx(0.95, abs=0.02)
    assert found.probability_of_cost_within(found.cost.high) == pytest.approx(0.95, abs=0.03)


def test_the_largest_driver_of_the_width_stands_first() -> None:
    rng = np.random.default_rng(5)
    known = Stratum("gpu", 500, "t4", 0.5, ended(lengths(rng, 400)))
    guessed = Stratum("cpu", 500, "c4", 0.8, ended(lengths(rng, 20)), speed=1.5, speed_error=0.5)
    found = forecast([known, guessed], {"t4": 5, "c4": 5})
    assert found.drivers[0].cause == "cpu: speed of c4"
    assert sum(driver.share for driver in found.drivers) == pytest.approx(1.0)


def test_one_more_day_of_pilot_narrows_the_interval_by_what_it_adds() -> None:
    strata = [Stratum("gpu", 4200, "t4", 0.5, ended(lengths(np.random.default_rng(6), 84)))]
    now, later = half_width_after(strata, {"t4": 60}, 24.0)
    assert later < 0.65 * now
    same, unchanged = half_width_after(strata, {"t4": 60}, 0.0)
    assert unchanged == pytest.approx(same, rel=0.02)


def test_a_pool_without_machines_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigurationError, match="has no machines"):
        forecast([Stratum("gpu", 9, "t4", 0.5, ended(np.array([1.0, 2.0])))], {})


def test_a_pilot_takes_some_of_every_kind_and_is_the_same_for_the_same_seed() -> None:
    assert allocate({"gpu": 3528, "cpu": 672}, 84) == {"gpu": 64, "cpu": 20}
    unknown = dict.fromkeys(f"c{i}" for i in range(672))
    drawn = draw_in_bands(unknown, 20, seed=1)
    assert len(set(drawn)) == 20
    assert drawn == draw_in_bands(dict(reversed(unknown.items())), 20, seed=1)
    assert drawn != draw_in_bands(unknown, 20, seed=2)


@pytest.mark.parametrize("sizes", [{"a": 3, "b": 100}, {"a": 1, "b": 1}, {"a": 7}, {"a": 40, "b": 40, "c": 2}])
@pytest.mark.parametrize("count", [2, 7, 30])
def test_an_allocation_is_never_more_than_there_are(sizes: dict[str, int], count: int) -> None:
    found = allocate(sizes, min(count, sum(sizes.values())))
    assert all(0 < found[name] <= sizes[name] for name in sizes)
    assert sum(found.values()) == max(min(count, sum(sizes.values())), len(sizes))


def test_the_size_of_a_pilot_is_a_fraction_or_a_count() -> None:
    assert pilot_count(4200, fraction=0.02) == 84
    assert pilot_count(4200, count=80) == 80
    with pytest.raises(ConfigurationError, match="left for a pilot"):
        pilot_count(0, count=3)
    for wrong in ({}, {"fraction": 0.1, "count": 3}, {"count": 5000}):
        with pytest.raises(ConfigurationError):
            pilot_count(4200, **wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_public_runtimes_are_used_only_where_they_narrow_the_interval() -> None:
    rng = np.random.default_rng(7)
    hours = lengths(rng, 84)
    close, noise = hours * rng.lognormal(0, 0.1, 84), rng.lognormal(1.4, 0.8, 84)
    plain = Part(4200, 1.0, float(hours.mean()), hours.var(ddof=1) / 84, hours.var(ddof=1), 0.0)
    assert with_public_runtimes(hours, close, float(close.mean()), 4200).mean_variance < 0.3 * plain.mean_variance
    unused = with_public_runtimes(hours, noise, 99.0, 4200)
    assert unused.mean == pytest.approx(plain.mean)
    assert unused.mean_variance == pytest.approx(plain.mean_variance)
