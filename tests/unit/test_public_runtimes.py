"""Recorded public runtimes in a forecast: used where they narrow it, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from referee.planning.catalogue import Catalogue, this_machine
from referee.planning.forecast import Forecast, Public, Stratum, forecast
from referee.planning.groups import Group
from referee.planning.runtime import Runtimes
from referee.planning.strata import strata_of

SIZE, PILOT = 800, 60


def world(seed: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Hours of everybody, and their public runtimes, with this correlation of the logarithms."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, SIZE))
    mixed = correlation * first + (1 - correlation**2) ** 0.5 * second
    return np.minimum(np.exp(1 + 0.6 * first), 19.0), np.exp(0.6 * mixed) / 10


def stratum(hours: np.ndarray, public: np.ndarray | None, running: int = 0) -> Stratum:
    ended = np.arange(PILOT) < PILOT - running
    known = None
    if public is not None:
        known = Public(public[:PILOT], float(public.mean()), float(public[PILOT:].mean()))
    return Stratum("gpu", SIZE, "lab", 0.5, Runtimes(hours[:PILOT], ended, 19.0), public=known)


def made(*strata: Stratum) -> list[Forecast]:
    return [forecast([each], {"lab": 20}, replicates=100) for each in strata]


def test_where_they_go_with_the_runtimes_the_forecast_is_narrower_and_still_covers() -> None:
    ratios, hits = [], []
    for seed in range(120):
        hours, public = world(seed, 0.9)
        with_them, without = made(stratum(hours, public), stratum(hours, None))
        ratios.append(with_them.hours.half_width / without.hours.half_width)
        hits.append(with_them.hours.low <= hours.sum() <= with_them.hours.high)
    assert np.mean(ratios) < 0.75
    assert np.mean(hits) >= 0.84  # 90%, and three standard errors of 120


def test_where_they_say_nothing_or_something_still_runs_they_change_nothing() -> None:
    hours, unrelated = world(3, 0.0)
    _, telling = world(3, 0.9)
    for public, running in ((unrelated, 0), (telling, 2)):
        some, none = made(stratum(hours, public, running), stratum(hours, None, running))
        assert some.hours == none.hours
        assert some.end_hours == none.end_hours


def test_few_that_wait_are_expected_as_their_own_public_runtimes_say() -> None:
    """The longest wait: the mean of those that ended is far too low for them."""
    hours, public = world(5, 0.98)
    order = np.argsort(public)
    hours, public = hours[order][:80], public[order][:80]  # sixty short ones ended, twenty longer ones wait
    ended = Runtimes(hours[:60], np.ones(60, np.bool_), 19.0)
    known = Public(public[:60], float(public.mean()), float(public[60:].mean()))
    some, none = made(
        Stratum("gpu", 80, "lab", 0.5, ended, public=known), Stratum("gpu", 80, "lab", 0.5, ended, public=None)
    )
    truth = float(hours.sum())
    assert abs(some.hours.mid - truth) < abs(none.hours.mid - truth)


@pytest.mark.parametrize("recorded", [SIZE, SIZE - 1], ids=["all", "not all"])
def test_a_groups_public_runtimes_reach_its_stratum_only_if_all_are_recorded(recorded: int) -> None:
    hours, public = world(7, 0.9)
    names = tuple(f"e{place}" for place in range(SIZE))
    seen = Runtimes(hours[:PILOT], np.ones(PILOT, np.bool_), 19.0)
    known = dict(zip(names[:recorded], (float(each) for each in public), strict=False))
    group = Group("gpu", SIZE, 1, 1, 0, 0, {"lab": seen}, {"lab": names[:PILOT]}, public=known)
    here = Catalogue(name="own", offers={"lab": this_machine(4, 2**34)})
    (found,) = strata_of([group], here, {"gpu": {"lab": SIZE - PILOT}}, 0.0)
    if recorded < SIZE:
        assert found.public is None
    else:
        assert found.public is not None
        assert found.public.seen.tolist() == public[:PILOT].tolist()
        assert found.public.waiting_mean == pytest.approx(float(public[PILOT:].mean()))
