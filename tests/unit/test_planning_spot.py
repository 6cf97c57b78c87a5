"""Spot capacity: closed forms against simulation, and never dearer than on demand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from referee.planning.simulation import Pool, draw_fates, simulate
from referee.planning.spot import LossRate, best_purchase, time_until_through, usd_with_fallback

RATES = st.floats(1e-4, 1.0)
HOURS = st.floats(0.01, 30.0)


@pytest.mark.parametrize(("rate", "tau", "tries"), [(0.1, 5.0, 1), (0.3, 4.0, 3), (0.01, 9.0, 2)])
def test_the_cost_with_fallback_is_what_the_kernel_pays(rate: float, tau: float, tries: int) -> None:
    pool = Pool(1, 1.0, 0.25, spot_usd_per_hour=0.3, losses_per_hour=rate, spot_tries=tries)
    fates = draw_fates(np.random.default_rng(1), pool, 20_000, 1, 1e3)
    seen = simulate(pool, np.full((20_000, 1), tau - 0.25), fates).usd
    expected = float(usd_with_fallback(rate, tau, tries, 0.3, 1.0))
    # Billing by whole seconds with a minute's minimum adds under a cent for each try.
    assert seen.mean() == pytest.approx(expected, abs=4 * float(seen.std()) / 20_000**0.5 + 0.002)


@given(RATES, HOURS, st.integers(1, 5))
def test_without_losses_spot_is_the_hours_and_with_them_it_is_more(rate: float, tau: float, tries: int) -> None:
    assert float(time_until_through(0.0, tau)) == pytest.approx(tau)
    assert float(time_until_through(rate, tau)) >= tau
    assert float(usd_with_fallback(1e-12, tau, tries, 0.3, 1.0)) == pytest.approx(0.3 * tau, rel=1e-6)


@given(RATES, HOURS, st.floats(0.0, 0.5), st.floats(0.01, 2.0), st.floats(0.01, 5.0))
def test_the_best_purchase_is_never_dearer_than_on_demand(
    rate: float, hours: float, overhead: float, spot: float, on_demand: float
) -> None:
    runtimes = np.array([hours, 2 * hours, 0.5 * hours])
    chosen = best_purchase(runtimes, overhead, rate, spot, on_demand, shards=(1, 4, 16))
    assert chosen.usd <= float((runtimes + overhead).mean()) * on_demand * (1 + 1e-12)


def test_at_a_high_rate_long_evaluations_go_on_demand_unless_they_can_be_sharded() -> None:
    whole = best_purchase(np.array([9.0]), 0.1, 0.7, 0.3, 1.0)
    sharded = best_purchase(np.array([9.0]), 0.1, 0.7, 0.3, 1.0, shards=(1, 4, 16))
    assert whole.tries == 0
    assert sharded.shards > 1
    assert sharded.usd < 0.6 * whole.usd


def test_an_uncertain_rate_is_learned_while_running() -> None:
    prior = LossRate.believed(0.1)
    assert prior.mean == pytest.approx(0.1)
    assert prior.points().mean() == pytest.approx(0.1, rel=0.1)
    learned = prior.after(2, 1000.0)
    assert learned.mean == pytest.approx(0.002, rel=0.2)
    spread = np.ptp(np.log(learned.points()))
    assert spread < np.ptp(np.log(prior.points()))
