"""What hangs on single items: found by looking at all of them, and checked here by trying each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from referee.scoring.boundary import prize_boundary
from referee.scoring.metrics import Accuracy, Brier, LogLoss


def _before(
    metric: LogLoss | Brier | Accuracy, labels: np.ndarray, predictions: np.ndarray, place: int
) -> tuple[set[int], bool]:
    """Who stands before the boundary, and whether somebody behind is just as good."""
    scores = metric.score(labels, predictions) * (-1 if metric.greater_is_better else 1)
    order = np.lexsort((np.arange(len(scores)), scores.round(12)))
    return set(order[:place].tolist()), bool(abs(scores[order[place - 1]] - scores[order[place]]) < 1e-11)


@given(st.integers(0, 10_000), st.sampled_from([LogLoss(1e-3), Brier(), Accuracy()]), st.integers(1, 3))
@settings(max_examples=80)
def test_every_item_that_decides_is_named_and_no_other(
    seed: int, metric: LogLoss | Brier | Accuracy, place: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(25) < 0.5).astype(float)
    predictions = np.clip(labels * 0.5 + 0.5 * rng.random((5, 25)), 0, 1)
    found = prize_boundary(metric, labels, predictions, place)
    now, _ = _before(metric, labels, predictions, place)
    removal, relabelling = [], []
    for item in range(25):
        keep = np.arange(25) != item
        then, tied = _before(metric, labels[keep], predictions[:, keep], place)
        if then != now and not tied:
            removal.append(item)
        flipped = np.where(np.arange(25) == item, 1 - labels, labels)
        then, tied = _before(metric, flipped, predictions, place)
        if then != now and not tied:
            relabelling.append(item)
    assert set(removal) <= set(found.by_removal)
    assert set(relabelling) <= set(found.by_relabelling)
    if not isinstance(metric, Accuracy):  # counts tie often, and a tie may hide a true change from the search above
        assert (removal, relabelling) == (list(found.by_removal), list(found.by_relabelling))


def test_one_confident_mistake_decides_the_first_prize_of_dfdc() -> None:
    """0.00044 over 10,000 videos is 4.4 nats: a label that one entry staked 99% on and the other 1% decides."""
    rng = np.random.default_rng(0)
    labels = (np.arange(10_000) % 2).astype(float)
    base = np.clip(np.where(labels == 1, 0.65, 0.35) + 0.1 * rng.normal(size=10_000), 0.01, 0.99)
    first, second = base.copy(), base.copy()
    first[3], second[3] = 0.99, 0.01  # item 3 is fake: the first was right, the second wrong by ln 99 = 4.6 nats
    found = prize_boundary(LogLoss(), labels, np.stack([second, first]), 1)
    assert (found.winner, found.runner_up) == (1, 0)
    assert found.gap_total == pytest.approx(np.log(99), rel=1e-9)
    assert found.gap == pytest.approx(0.00046, abs=1e-5)
    assert found.by_relabelling == (3,)
    assert found.fewest_relabellings == 1
    assert found.by_removal == ()  # without it they tie, and a tie changes nothing
    assert found.fewest_removals is None


def test_the_fewest_items_are_as_few_as_possible() -> None:
    labels = np.ones(6)
    winner = np.array([0.9, 0.9, 0.9, 0.2, 0.5, 0.5])
    runner_up = np.array([0.5, 0.5, 0.6, 0.5, 0.5, 0.5])
    found = prize_boundary(Brier(), labels, np.stack([winner, runner_up]), 1)
    gains = (1 - runner_up) ** 2 - (1 - winner) ** 2
    assert gains.sum() > 0
    least = next(k for k in range(1, 7) if np.sort(gains)[::-1][:k].sum() > gains.sum())
    assert found.fewest_removals == least


def test_an_entry_behind_that_is_better_somewhere_else_counts_too() -> None:
    labels = np.ones(3)
    predictions = np.array([[0.9, 0.5, 0.5], [0.1, 0.62, 0.5], [0.0, 0.7, 0.5]])
    found = prize_boundary(Brier(), labels, predictions, 1)
    assert (found.winner, found.runner_up) == (0, 1)
    assert found.by_removal == (0,)


def test_boundaries_outside_the_board_are_refused() -> None:
    for place in (0, 2):
        with pytest.raises(ValueError, match="no boundary"):
            prize_boundary(LogLoss(), np.ones(2), np.full((2, 2), 0.5), place)
