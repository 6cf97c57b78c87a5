"""The kernel against closed forms, and event for event against the same model in SimPy."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from referee.planning.simulation import Fates, Pool, draw_fates, list_schedule, simulate


def _load(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


simpy_model = _load("simpy_model")

SPOT = Pool(
    machines=7,
    usd_per_hour=1.0,
    boot_hours=0.05,
    spot_usd_per_hour=0.3,
    losses_per_hour=0.15,
    zone_share=0.4,
    zones=3,
    spot_tries=2,
    first_hour_free=True,
)


@pytest.mark.parametrize("pool", [Pool(machines=7, usd_per_hour=0.5, boot_hours=0.03), SPOT], ids=["on-demand", "spot"])
def test_every_event_is_the_same_as_in_simpy(pool: Pool) -> None:
    rng = np.random.default_rng(5)
    hours = rng.lognormal(0.5, 0.8, (20, 150))
    fates = draw_fates(rng, pool, 20, 150, 500.0) if pool.spot_usd_per_hour else None
    kernel = simulate(pool, hours, fates, trace=True)
    for replicate in range(20):
        other = simpy_model.run(pool, hours[replicate], fates, replicate)
        places = range(150)
        np.testing.assert_allclose(kernel.starts[replicate], [other.starts[p] for p in places], rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(kernel.ends[replicate], [other.ends[p] for p in places], rtol=1e-12, atol=1e-9)
        assert kernel.machines[replicate].tolist() == [other.machines[p] for p in places]
        assert kernel.losses[replicate] == other.losses
        assert kernel.usd[replicate] == pytest.approx(other.usd, rel=1e-9)


def test_the_plain_model_that_measures_the_speed_is_the_same_model() -> None:
    hours = np.random.default_rng(11).lognormal(0.5, 0.8, (1, 150))
    pool = Pool(machines=7, usd_per_hour=0.5, boot_hours=0.03)
    assert simulate(pool, hours).end_hours[0] == pytest.approx(simpy_model.run_plainly(pool, hours[0]))


def test_more_replicates_than_a_chunk_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(6)
    hours = rng.lognormal(0.5, 0.8, (600, 30))
    fates = draw_fates(rng, SPOT, 600, 30, 200.0)
    together = simulate(SPOT, hours, fates)
    alone = simulate(SPOT, hours[599:], Fates(fates.waits[599:], fates.shocks[599:]))
    assert together.usd[599] == alone.usd[0]
    assert together.end_hours[599] == alone.end_hours[0]


def test_one_machine_works_the_sum_and_many_work_the_longest() -> None:
    hours = np.array([[1.0, 2.0, 4.0]])
    assert simulate(Pool(1, 1.0, boot_hours=0.5), hours).end_hours[0] == 7.5
    assert simulate(Pool(9, 1.0, boot_hours=0.5), hours).end_hours[0] == 4.5
    assert simulate(Pool(9, 1.0, boot_hours=0.5), hours).usd[0] == pytest.approx(8.5)
    assert list_schedule(hours, np.zeros((1, 2))).max() == 5.0


def test_list_scheduling_keeps_grahams_bounds() -> None:
    rng = np.random.default_rng(7)
    hours = rng.lognormal(0, 1.2, (300, 200))
    ends = simulate(Pool(10, 1.0), hours).end_hours
    assert (ends >= np.maximum(hours.sum(axis=1) / 10, hours.max(axis=1)) - 1e-9).all()
    assert (ends <= hours.sum(axis=1) / 10 + hours.max(axis=1) * 0.9 + 1e-9).all()


def test_time_on_spot_until_it_succeeds_has_its_closed_form() -> None:
    rate, hours, overhead = 0.2, 3.0, 0.5
    pool = Pool(1, 1.0, overhead, spot_usd_per_hour=0.4, losses_per_hour=rate, spot_tries=60)
    fates = draw_fates(np.random.default_rng(8), pool, 20_000, 1, 1e4)
    seen = simulate(pool, np.full((20_000, 1), hours), fates).machine_hours
    expected = (math.exp(rate * (hours + overhead)) - 1) / rate
    assert seen.mean() == pytest.approx(expected, abs=4 * float(seen.std()) / 20_000**0.5)


def test_losses_by_zone_are_as_many_but_come_together() -> None:
    hours = np.full((2000, 40), 2.0)
    alone, shared = (
        Pool(20, 1.0, 0.0, spot_usd_per_hour=0.4, losses_per_hour=0.05, zone_share=share, zones=2, spot_tries=30)
        for share in (0.0, 1.0)
    )
    rng = np.random.default_rng(9)
    a = simulate(alone, hours, draw_fates(rng, alone, 2000, 40, 200.0)).losses
    b = simulate(shared, hours, draw_fates(rng, shared, 2000, 40, 200.0)).losses
    assert b.mean() == pytest.approx(a.mean(), rel=0.15)
    assert b.var() > 3 * a.var()
