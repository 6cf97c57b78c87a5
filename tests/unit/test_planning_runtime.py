"""Runtimes that are still running, and what may be concluded from them."""

import numpy as np
import pytest
from scipy import stats

from referee.errors import ConfigurationError
from referee.planning.runtime import Runtimes, fit_lognormal, product_limit


def seen(hours: list[float], ended: list[bool], limit: float = 100.0) -> Runtimes:
    return Runtimes(np.array(hours), np.array(ended), limit)


def test_where_all_have_ended_it_is_the_sample_itself() -> None:
    hours = np.random.default_rng(1).lognormal(0, 1, 50)
    law = product_limit(Runtimes(hours, np.ones(50, dtype=np.bool_), 1e9))
    assert law.mean == pytest.approx(hours.mean())
    assert law.mean_variance == pytest.approx(hours.var(ddof=1) / 50)
    assert law.effective == pytest.approx(49, abs=1.5)


def test_it_agrees_with_scipy_where_some_still_run() -> None:
    rng = np.random.default_rng(2)
    true, age = rng.lognormal(0, 0.8, 200), rng.uniform(0.5, 3.0, 200)
    hours, ended = np.minimum(true, age), true <= age
    law = product_limit(Runtimes(hours, ended, 1e9))
    curve = stats.ecdf(stats.CensoredData.right_censored(hours, ~ended)).sf
    at = np.linspace(0.1, 2.0, 40)
    ours = np.array([law.mass[law.hours > x].sum() for x in at])
    np.testing.assert_allclose(ours, curve.evaluate(at), atol=1e-12)


def test_a_killed_attempt_counts_exactly_the_limit() -> None:
    law = product_limit(seen([1.0, 2.0, 9.0, 30.0], [True, True, True, True], limit=9.0))
    assert law.hours.max() == 9.0
    assert law.mean == pytest.approx((1 + 2 + 9 + 9) / 4)


def test_one_that_is_past_the_limit_is_known_although_it_was_not_yet_killed() -> None:
    law = product_limit(seen([1.0, 2.0, 9.5], [True, True, False], limit=9.0))
    assert law.mean == pytest.approx(4.0)


def test_the_mean_of_those_that_ended_is_too_low_and_the_law_is_not() -> None:
    rng = np.random.default_rng(3)
    naive, ours = [], []
    for _ in range(200):
        true = np.minimum(rng.lognormal(1.5, 0.8, 400), 19.0)
        age = rng.uniform(0.0, 25.0, 400)
        hours, ended = np.minimum(true, age), true <= age
        naive.append(hours[ended].mean())
        ours.append(product_limit(Runtimes(hours, ended, 19.0)).mean)
    truth = float(np.minimum(np.random.default_rng(4).lognormal(1.5, 0.8, 10**6), 19.0).mean())
    assert np.mean(naive) < 0.9 * truth
    assert np.mean(ours) == pytest.approx(truth, rel=0.01)


def test_where_the_data_end_before_the_limit_the_tail_is_fitted() -> None:
    rng = np.random.default_rng(5)
    true = rng.lognormal(1.0, 0.8, 300)
    hours, ended = np.minimum(true, 4.0), true <= 4.0
    law = product_limit(Runtimes(hours, ended, 20.0))
    expected = float(np.minimum(np.random.default_rng(6).lognormal(1.0, 0.8, 10**6), 20.0).mean())
    assert law.hours.max() > 4.0
    assert law.mean == pytest.approx(expected, rel=0.1)
    assert law.mean_variance > hours.var() / 300


def test_a_censored_fit_finds_the_lognormal() -> None:
    rng = np.random.default_rng(7)
    true = rng.lognormal(1.2, 0.6, 4000)
    age = rng.uniform(1, 8, 4000)
    mu, sigma = fit_lognormal(np.minimum(true, age), true <= age)
    assert mu == pytest.approx(1.2, abs=0.04)
    assert sigma == pytest.approx(0.6, abs=0.04)


def test_what_is_left_of_an_old_one_is_what_older_ones_had_left() -> None:
    law = product_limit(seen([1.0, 2.0, 3.0, 10.0], [True] * 4))
    left = law.draw_remaining(np.random.default_rng(8), np.array([2.5]), 4000)[:, 0]
    assert set(np.unique(left)) == {0.5, 7.5}
    assert left.mean() == pytest.approx(4.0, abs=0.25)


def test_a_busy_machine_is_met_within_a_long_evaluation() -> None:
    law = product_limit(seen([1.0, 9.0], [True, True]))
    left = law.draw_in_progress(np.random.default_rng(9), 40_000)
    # Renewal theory: mean of what is left is E[T^2] / (2 E[T]).
    assert left.mean() == pytest.approx((1 + 81) / 2 / (2 * 5), rel=0.03)


def test_nothing_is_said_from_fewer_than_two() -> None:
    with pytest.raises(ConfigurationError, match="at least two"):
        product_limit(seen([1.0, 2.0], [True, False]))
    with pytest.raises(ValueError, match="zero or more"):
        seen([-1.0], [True])
