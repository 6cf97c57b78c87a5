"""Drift is announced when it is there, soon, and hardly ever when it is not."""

import numpy as np
import pytest

from referee.planning.drift import detect_drift
from referee.planning.runtime import Law, Runtimes, product_limit

LIMIT = 18.9


def earlier(rng: np.random.Generator, number: int) -> Law:
    return product_limit(Runtimes(lengths(rng, number), np.ones(number, dtype=np.bool_), LIMIT))


def lengths(rng: np.random.Generator, number: int, stretch: float = 1.0) -> np.ndarray:
    return np.minimum(rng.lognormal(1.4, 0.8, number) * stretch, LIMIT)


def all_ended(hours: np.ndarray) -> Runtimes:
    return Runtimes(hours, np.ones(hours.size, dtype=np.bool_), LIMIT)


def test_without_drift_there_is_hardly_ever_an_alarm() -> None:
    rng = np.random.default_rng(1)
    alarms = [detect_drift(earlier(rng, 84), all_ended(lengths(rng, 3000))) for _ in range(60)]
    assert sum(alarm is not None for alarm in alarms) <= 2


@pytest.mark.parametrize(("stretch", "direction"), [(2.0, "longer"), (0.5, "shorter")])
def test_drift_is_announced_with_direction_and_size(stretch: float, direction: str) -> None:
    rng = np.random.default_rng(2)
    later = np.concatenate([lengths(rng, 500), lengths(rng, 400, stretch)])
    found = detect_drift(earlier(rng, 400), all_ended(later))
    assert found is not None
    assert found.direction == direction
    assert 350 < found.since < 620
    assert (found.factor > 1.3) == (direction == "longer")
    assert direction in found.sentence


def test_those_that_still_run_count_too() -> None:
    rng = np.random.default_rng(3)
    law = earlier(rng, 400)
    # Three times as long; half of those that started are seen only at the age that the earlier ones ended at.
    true = lengths(rng, 300, 3.0)
    age = lengths(rng, 300)
    seen = Runtimes(np.minimum(true, age), true <= age, LIMIT)
    found = detect_drift(law, seen)
    assert found is not None
    assert found.direction == "longer"
    same = lengths(rng, 300)
    assert detect_drift(law, Runtimes(np.minimum(same, age), same <= age, LIMIT)) is None


def test_of_nothing_nothing_is_said() -> None:
    assert detect_drift(earlier(np.random.default_rng(4), 84), all_ended(np.zeros(0))) is None
