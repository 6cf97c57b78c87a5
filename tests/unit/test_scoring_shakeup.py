"""Moves between the boards, scores by group, reliability."""

from __future__ import annotations

import numpy as np
import pytest
from scoring_rows import evaluation, score
from sklearn.calibration import calibration_curve

from referee.scoring.leaderboard import Leaderboard, leaderboard
from referee.scoring.metric import find_metric
from referee.scoring.shakeup import reliability, scores_by_group, shake_up


def board(phase: str, values: dict[str, float]) -> Leaderboard:
    rows = [evaluation(name, phase=phase) for name in values]
    return leaderboard(phase, [find_metric("log_loss")], rows, [score(n, v, phase=phase) for n, v in values.items()])


def test_moves_are_ranked_among_those_that_are_on_both_boards() -> None:
    public = board("public_test", {"s-gone": 0.1, "s-a": 0.2, "s-b": 0.3, "s-c": 0.4})
    private = board("private_test", {"s-a": 0.6, "s-b": 0.5, "s-c": 0.7, "s-new": 0.1})
    found = shake_up(public, private, top=2)
    assert [(m.submission, m.public_rank, m.private_rank, m.moved) for m in found.moves] == [
        ("s-b", 2, 1, 1),
        ("s-a", 1, 2, -1),
        ("s-c", 3, 3, 0),
    ]
    assert (found.kept_top, found.top, found.median_move) == (2, 2, 1.0)
    assert found.spearman == pytest.approx(0.5)
    assert found.kendall == pytest.approx(1 / 3)


def test_boards_that_say_nothing_have_no_correlation() -> None:
    tied = board("public_test", {"s-a": 0.5, "s-b": 0.5})
    found = shake_up(tied, board("private_test", {"s-a": 0.5, "s-b": 0.6}))
    assert (found.spearman, found.kendall) == (None, None)
    empty = shake_up(board("public_test", {}), board("private_test", {}))
    assert (empty.moves, empty.top, empty.spearman) == ((), 0, None)


def test_scores_by_group_are_the_scores_of_its_items() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = (rng.random(60) < 0.5).astype(float), rng.random((3, 60))
    groups = ["organic" if place % 3 else "swap" for place in range(60)]
    metric = find_metric("log_loss")
    found = scores_by_group(metric, labels, predictions, groups)
    assert [(group.group, group.items) for group in found] == [("organic", 40), ("swap", 20)]
    of = np.arange(60) % 3 == 0
    np.testing.assert_array_equal(found[1].scores, metric.score(labels[of], predictions[:, of]))
    with pytest.raises(ValueError, match="do not fit"):
        scores_by_group(metric, labels, predictions, groups[1:])


def test_reliability_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = (rng.random(300) < 0.5).astype(float), rng.random(300).round(2) * 0.8
    found = reliability(labels, predictions, 10)
    true, mean = calibration_curve(labels, predictions, n_bins=10)
    np.testing.assert_allclose([one.share_of_fakes for one in found], true)
    np.testing.assert_allclose([one.mean_prediction for one in found], mean)
    assert sum(one.items for one in found) == 300
