"""Every metric agrees with scikit-learn, or with the paper's own numbers, on cases chosen to disagree."""

from __future__ import annotations

import math
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, log_loss, roc_auc_score

from referee.challenge import MetricChoice
from referee.errors import ConfigurationError
from referee.scoring import metric as metric_module
from referee.scoring.metric import Floats, Metric, chosen_metrics, find_metric
from referee.scoring.metrics import BUILT_IN, LogLoss

EPSILON = 1e-15


def _boards() -> dict[str, tuple[Floats, Floats]]:
    rng = np.random.default_rng(3)
    labels = (rng.random(500) < 0.3).astype(float)
    extremes = np.array([0.0, 1.0, 0.5, 1e-300, 1 - 2**-53, 5e-324, 1e-15, 1 - 1e-15, 1e-16])
    calibrated = np.clip(labels * 0.6 + 0.4 * rng.random((6, 500)), 0, 1)
    return {
        "honest": (labels, calibrated),
        "many ties": (labels, np.round(rng.random((6, 500)), 1)),
        "constant": (labels, np.full((2, 500), 0.5)),
        "extremes": (labels, rng.choice(extremes, (6, 500))),
        "perfect": (labels, labels[None, :].copy()),
        "always wrong": (labels, 1 - labels[None, :]),
        "neighbouring floats": (labels, 0.5 + rng.integers(-3, 4, (4, 500)) * 2**-53),
        "one fake": (np.eye(1, 50)[0], rng.random((4, 50))),
        "two items": (np.array([0.0, 1.0]), np.array([[0.3, 0.3], [0.2, 0.8], [0.8, 0.2]])),
        "in blocks": (np.tile([0.0, 1.0], 200_000), rng.random((14, 400_000)).round(3)),
    }


BOARDS = _boards()


def _weights(items: int) -> list[Floats | None]:
    rng = np.random.default_rng(5)
    return [
        None,
        rng.random(items),
        rng.integers(0, 3, items).astype(float) + (np.arange(items) < 2),
        np.full(items, 1e6),
    ]


def _log_loss(labels: Floats, row: Floats, weight: Floats | None) -> float:
    return float(log_loss(labels, np.clip(row, EPSILON, 1 - EPSILON), sample_weight=weight, labels=[0, 1]))


ORACLES = {
    "log_loss": _log_loss,
    "brier": lambda y, p, w: brier_score_loss(y, p, sample_weight=w),
    "roc_auc": lambda y, p, w: roc_auc_score(y, p, sample_weight=w),
    "average_precision": lambda y, p, w: average_precision_score(y, p, sample_weight=w),
    "accuracy": lambda y, p, w: accuracy_score(y, p >= 0.5, sample_weight=w),
    "accuracy@0.3": lambda y, p, w: accuracy_score(y, p >= 0.3, sample_weight=w),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("board", BOARDS)
def test_metrics_agree_with_scikit_learn(board: str, name: str) -> None:
    labels, predictions = BOARDS[board]
    if board == "in blocks":
        predictions = predictions[::7]
    for weight in _weights(labels.size)[: 1 if board == "in blocks" else None]:
        expected = [ORACLES[name](labels, row, weight) for row in predictions]
        scores = find_metric(name, EPSILON).score(labels, predictions, weight)
        np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-12)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1), st.integers(0, 4)), min_size=2, max_size=40
    ).filter(lambda rows: len({label for label, _, weight in rows if weight}) == 2)
)
@settings(max_examples=50)
def test_metrics_agree_with_scikit_learn_on_anything(rows: list[tuple[float, float, int]]) -> None:
    labels, predictions, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    for name, oracle in ORACLES.items():
        score = find_metric(name, EPSILON).score(labels, predictions[None, :], weight)[0]
        assert math.isclose(score, oracle(labels, predictions, weight), rel_tol=1e-12, abs_tol=1e-12), name


def test_a_constant_half_scores_ln_2() -> None:
    labels = np.array([0.0, 1.0, 1.0])
    assert LogLoss().score(labels, np.full((1, 3), 0.5))[0] == math.log(2)


@pytest.mark.parametrize("epsilon", [0.1, 1e-3, 1e-15, 1e-17, 1e-300])
def test_the_challenges_epsilon_bounds_every_loss(epsilon: float) -> None:
    wrong = LogLoss(epsilon).per_item(np.array([0.0, 1.0]), np.array([[1.0, 0.0]]))[0]
    assert np.isfinite(wrong).all()
    assert wrong[1] == -math.log(epsilon)
    assert wrong[0] == pytest.approx(-math.log(max(epsilon, 2**-53)), rel=1e-4)
    clipped = np.clip([1.0, 0.0], epsilon, min(1 - epsilon, 1 - 2**-53))
    if epsilon >= 1e-15:  # below that scikit-learn clips by the rounding unit of float64 instead
        assert wrong.mean() == pytest.approx(log_loss([0, 1], clipped, labels=[0, 1]), rel=1e-12)


@pytest.mark.parametrize("board", ["honest", "many ties"])
def test_calibration_error_agrees_with_the_bins_of_scikit_learn(board: str) -> None:
    labels, predictions = BOARDS[board]
    for bins in (1, 10, 15):
        for row, score in zip(
            predictions, find_metric(f"calibration_error@{bins}").score(labels, predictions), strict=True
        ):
            true, mean = calibration_curve(labels, row, n_bins=bins)
            cell = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], row)
            counts = np.bincount(cell, minlength=bins)
            assert score == pytest.approx((counts[counts > 0] * np.abs(true - mean)).sum() / labels.size, abs=1e-12)


def test_calibration_error_weighs_items() -> None:
    labels, predictions = BOARDS["many ties"]
    weight = np.random.default_rng(0).integers(0, 4, labels.size)
    repeated = find_metric("calibration_error").score(labels.repeat(weight), predictions.repeat(weight, axis=1))
    weighted = find_metric("calibration_error").score(labels, predictions, weight.astype(float))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-12)


# Precision and log(wP) as in the table of the DFDC preview paper (arXiv:1910.08854): natural logarithm, alpha = 100.
@pytest.mark.parametrize(("precision", "log_weighted"), [(0.833, -3.044), (0.930, -2.140), (0.784, -3.352)])
def test_weighted_precision_gives_the_papers_numbers(precision: float, log_weighted: float) -> None:
    called = 100_000
    hits = round(called * precision)
    labels = np.concatenate([np.ones(hits), np.zeros(called - hits), np.ones(hits)])
    predictions = np.concatenate([np.ones(called), np.zeros(hits)])[None, :]
    score = find_metric("log_weighted_precision@0.5").score(labels, predictions)[0]
    assert score == pytest.approx(log_weighted, abs=0.005)  # the paper rounds its precisions to three digits
    assert find_metric("weighted_precision@0.5").score(labels, predictions)[0] == pytest.approx(
        math.exp(score), rel=1e-12
    )


@pytest.mark.parametrize("recall", [0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("board", ["honest", "many ties", "extremes", "constant", "one fake"])
def test_weighted_precision_agrees_with_a_search_over_all_thresholds(board: str, recall: float) -> None:
    labels, predictions = BOARDS[board]
    for row, score in zip(
        predictions, find_metric(f"weighted_precision@{recall}").score(labels, predictions), strict=True
    ):
        for threshold in sorted(set(row), reverse=True):
            hits = ((row >= threshold) & (labels == 1)).sum()
            if hits / labels.sum() >= recall - 1e-12:
                alarms = ((row >= threshold) & (labels == 0)).sum()
                assert score == pytest.approx(hits / (hits + 100 * alarms), rel=1e-12)
                break


def test_a_recall_that_is_met_exactly_counts_although_weights_round() -> None:
    # Ten fakes of weight 0.1 above ten real items: whatever the recall, no false alarm is needed to reach it.
    labels, predictions = np.repeat([1.0, 0.0], 10), np.linspace(1, 0, 20)[None, :]
    for tenths in range(1, 11):
        for weight in (0.1, 0.3, 0.7):
            metric = find_metric(f"weighted_precision@{tenths / 10}")
            assert metric.score(labels, predictions, np.full(20, weight))[0] == 1.0
    interleaved = np.tile([1.0, 0.0], 10)
    for tenths in range(1, 11):
        for weight in (0.1, 0.3, 0.7):
            score = find_metric(f"weighted_precision@{tenths / 10}").score(
                interleaved, predictions, np.full(20, weight)
            )[0]
            assert score == pytest.approx(tenths / (tenths + 100 * (tenths - 1)), rel=1e-12)


ALL = ["log_loss", "brier", "roc_auc", "average_precision", "accuracy", "calibration_error", "weighted_precision",
       "log_weighted_precision"]  # fmt: skip


def test_every_built_in_metric_is_under_test() -> None:
    assert set(ALL) == set(BUILT_IN)


@pytest.mark.parametrize("name", ALL)
def test_a_rows_score_does_not_depend_on_its_neighbours(name: str) -> None:
    labels, predictions = BOARDS["honest"]
    metric = find_metric(name)
    together = metric.score(labels, np.tile(predictions, (50, 1)))
    alone = np.concatenate([metric.score(labels, row[None, :]) for row in predictions])
    assert together.tobytes() == np.tile(alone, 50).tobytes()


@pytest.mark.parametrize("name", ALL)
def test_weight_means_repetition(name: str) -> None:
    labels, predictions = BOARDS["many ties"]
    weight = np.random.default_rng(1).integers(0, 4, labels.size)
    repeated = find_metric(name).score(labels.repeat(weight), predictions.repeat(weight, axis=1))
    np.testing.assert_allclose(find_metric(name).score(labels, predictions, weight.astype(float)), repeated, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_better_direction_is_the_one_that_is_said(name: str) -> None:
    labels, _ = BOARDS["honest"]
    metric = find_metric(name)
    good, bad = metric.score(labels, np.stack([labels * 0.9 + 0.05, 0.95 - labels * 0.9]))
    assert (good > bad) == metric.greater_is_better


def test_what_is_undefined_is_nan_and_never_an_error() -> None:
    for label in (0.0, 1.0):
        labels = np.full(5, label)
        for name in ALL:
            scores = find_metric(name).score(labels, np.full((2, 5), 0.3))
            undefined = name == "roc_auc" or (
                label == 0.0 and name in {"average_precision", "weighted_precision", "log_weighted_precision"}
            )
            assert np.isnan(scores).all() == undefined, name


def test_no_weight_at_all_is_undefined() -> None:
    for name in ALL:
        assert np.isnan(find_metric(name).score(np.array([0.0, 1.0]), np.full((1, 2), 0.3), np.zeros(2))).all(), name


@pytest.mark.parametrize("name", ALL)
def test_means_say_so_and_are_the_mean_of_their_items(name: str) -> None:
    labels, predictions = BOARDS["honest"]
    metric = find_metric(name)
    assert metric.is_mean == (name in {"log_loss", "brier", "accuracy"})
    if isinstance(metric, metric_module.MeanMetric):
        np.testing.assert_allclose(
            metric.per_item(labels, predictions).mean(axis=1), metric.score(labels, predictions), rtol=1e-12
        )


def test_wrong_shapes_labels_and_weights_are_refused() -> None:
    half = np.full((1, 2), 0.5)
    for labels, weight in (
        (np.zeros(3), None),
        (np.array([0.0, 2.0]), None),
        (np.zeros(2), np.array([1.0, -1.0])),
        (np.zeros(2), np.ones(3)),
    ):
        with pytest.raises(ValueError, match=r"labels|label|sample_weight"):
            LogLoss().score(labels, half, weight)


@pytest.mark.parametrize(
    "name", ["logloss", "", "accuracy@2", "accuracy@x", "brier@3", "log_loss@1", "calibration_error@1.5", "LOG_LOSS"]
)
def test_a_metric_that_does_not_exist_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_metric(name)
    assert caught.value.hint


def test_names_are_those_of_the_challenge() -> None:
    choice = MetricChoice(name="log_loss", epsilon=1e-7, secondary=("roc_auc", "accuracy@0.7", "log_loss"))
    metrics = chosen_metrics(choice)
    assert [metric.name for metric in metrics] == ["log_loss", "roc_auc", "accuracy@0.7"]
    assert metrics[0] == LogLoss(1e-7)


class Spread:
    """A metric as another package would write it."""

    name = "spread"
    greater_is_better = True
    is_mean = False

    def score(self, labels: Floats, predictions: Floats, sample_weight: Floats | None = None) -> Floats:
        del labels, sample_weight
        return np.ptp(predictions, axis=1)


def make_spread(parameter: float | None, epsilon: float) -> Metric:
    del parameter, epsilon
    return Spread()


def test_another_package_adds_a_metric_but_cannot_take_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    group = metric_module.ENTRY_POINT_GROUP
    offered = [
        EntryPoint("spread", f"{__name__}:make_spread", group),
        EntryPoint("log_loss", f"{__name__}:make_spread", group),
        EntryPoint("broken", "no_such_package:metric", group),
    ]
    monkeypatch.setattr(
        metric_module, "entry_points", lambda group: offered if group == metric_module.ENTRY_POINT_GROUP else []
    )
    assert find_metric("spread").score(np.zeros(2), np.array([[0.1, 0.5]]))[0] == pytest.approx(0.4)
    assert isinstance(find_metric("log_loss"), LogLoss)
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        find_metric("broken")
