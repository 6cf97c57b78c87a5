"""The built-in metrics, each over submissions x items at once.

Those that scikit-learn has agree with it to 1e-12 on the same (clipped) input; labels are always both classes, as
with its `labels=[0, 1]`, and `sample_weight` means what it means there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from referee.errors import ConfigurationError
from referee.scoring.metric import Booleans, Floats, MetricFactory, row_blocks

_BELOW_ONE = float(np.nextafter(1.0, 0.0))


class _Mean:
    """A score that is the mean over items of what each contributes."""

    is_mean: ClassVar[bool] = True

    def per_item(self, labels: Floats, predictions: Floats) -> Floats:
        raise NotImplementedError

    def score(self, labels: Floats, predictions: Floats, sample_weight: Floats | None = None) -> Floats:
        weight = _checked(labels, predictions, sample_weight)
        scores = np.empty(len(predictions))
        total = weight.sum() if weight is not None else labels.size
        for block in row_blocks(*predictions.shape):
            parts = self.per_item(labels, predictions[block])
            if weight is not None:
                parts = parts * weight
            # Summed row by row: a matrix product could round equal rows differently, and equal rows must tie.
            scores[block] = parts.sum(axis=1) / total if total > 0 else np.nan
        return scores


@dataclass(frozen=True)
class LogLoss(_Mean):
    """Mean of -ln(probability given to the true label), in nats; 0 is perfect, ln 2 = 0.693 is a constant 0.5.

    Predictions are clipped to [epsilon, 1 - epsilon] first. An epsilon so small that 1 - epsilon rounds to 1 clips at
    the largest float64 below 1, so that no loss is infinite.
    """

    epsilon: float = 1e-15
    name: ClassVar[str] = "log_loss"
    greater_is_better: ClassVar[bool] = False

    def per_item(self, labels: Floats, predictions: Floats) -> Floats:
        """Losses in nats; shape (submissions, items)."""
        clipped = np.clip(predictions, self.epsilon, min(1.0 - self.epsilon, _BELOW_ONE))
        np.subtract(1.0, clipped, out=clipped, where=labels == 0)
        np.log(clipped, out=clipped)
        losses: Floats = np.negative(clipped, out=clipped)
        return losses


@dataclass(frozen=True)
class Brier(_Mean):
    """Mean of (prediction - label)^2; 0 is perfect, 0.25 is a constant 0.5 (Brier, 1950)."""

    name: ClassVar[str] = "brier"
    greater_is_better: ClassVar[bool] = False

    def per_item(self, labels: Floats, predictions: Floats) -> Floats:
        """Squared errors; shape (submissions, items)."""
        errors: Floats = np.square(predictions - labels)
        return errors


@dataclass(frozen=True)
class Accuracy(_Mean):
    """Share of the items that are called rightly when a prediction of at least `threshold` says fake."""

    threshold: float = 0.5
    greater_is_better: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The name with the threshold."""
        return f"accuracy@{self.threshold:g}"

    def per_item(self, labels: Floats, predictions: Floats) -> Floats:
        """1.0 for right and 0.0 for wrong; shape (submissions, items)."""
        right: Floats = ((predictions >= self.threshold) == (labels == 1)).astype(np.float64)
        return right


class _Ranked:
    """A score that depends on the order of the predictions; items with equal predictions cannot be told apart."""

    is_mean: ClassVar[bool] = False

    def score(self, labels: Floats, predictions: Floats, sample_weight: Floats | None = None) -> Floats:
        given = _checked(labels, predictions, sample_weight)
        weight = np.ones(labels.size) if given is None else given
        scores = np.full(len(predictions), np.nan)
        fake, real = weight * (labels == 1), weight * (labels == 0)
        if fake.sum() == 0 or (real.sum() == 0 and self._needs_both):
            return scores
        for block in row_blocks(*predictions.shape):
            order = np.argsort(-predictions[block], axis=1)
            ordered = np.take_along_axis(predictions[block], order, axis=1)
            last_of_tie = np.ones(ordered.shape, dtype=np.bool_)
            last_of_tie[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
            scores[block] = self._of_curve(fake[order], real[order], last_of_tie)
        return scores

    _needs_both: ClassVar[bool]

    def _of_curve(self, fake: Floats, real: Floats, last_of_tie: Booleans) -> Floats:
        """The score from the weights of fake and real items in falling order of prediction."""
        raise NotImplementedError


def _through_tie(cumulated: Floats, last_of_tie: Booleans) -> Floats:
    """At each item the running sum at the end of its tie: the sums never fall, so the next end is a minimum."""
    at_ends = np.where(last_of_tie, cumulated, np.inf)
    return np.minimum.accumulate(at_ends[:, ::-1], axis=1)[:, ::-1]


@dataclass(frozen=True)
class RocAuc(_Ranked):
    """Area under the ROC curve: the chance that a fake is ranked above a real item, ties counting half."""

    name: ClassVar[str] = "roc_auc"
    greater_is_better: ClassVar[bool] = True
    _needs_both: ClassVar[bool] = True

    def _of_curve(self, fake: Floats, real: Floats, last_of_tie: Booleans) -> Floats:
        total = real.sum(axis=1)
        through = _through_tie(np.cumsum(real, axis=1), last_of_tie)
        before = np.zeros_like(through)
        ends = np.where(last_of_tie[:, :-1], through[:, :-1], 0.0)
        before[:, 1:] = np.maximum.accumulate(ends, axis=1)
        beaten = total[:, None] - 0.5 * (through + before)
        area: Floats = (fake * beaten).sum(axis=1) / (fake.sum(axis=1) * total)
        return area


@dataclass(frozen=True)
class AveragePrecision(_Ranked):
    """Mean of the precision over the recall, as a step function without interpolation."""

    name: ClassVar[str] = "average_precision"
    greater_is_better: ClassVar[bool] = True
    _needs_both: ClassVar[bool] = False

    def _of_curve(self, fake: Floats, real: Floats, last_of_tie: Booleans) -> Floats:
        hits = _through_tie(np.cumsum(fake, axis=1), last_of_tie)
        calls = hits + _through_tie(np.cumsum(real, axis=1), last_of_tie)
        precision = np.divide(hits, calls, out=np.zeros_like(hits), where=calls > 0)
        average: Floats = (fake * precision).sum(axis=1) / fake.sum(axis=1)
        return average


@dataclass(frozen=True)
class WeightedPrecision(_Ranked):
    """DFDC's weighted precision wP = TP / (TP + alpha FP) where the recall first reaches `recall`, or ln wP.

    Real traffic holds far fewer fakes than a balanced test set, so each false alarm weighs alpha = 100 times. The
    operating point is the highest threshold whose recall, TP / (TP + FN), is at least `recall`. Sources: Dolhansky et
    al., The DeepFake Detection Challenge Dataset, arXiv:2006.07397, and its preview, arXiv:1910.08854, whose table
    (precision 0.833 is log(wP) -3.044) shows alpha and the natural logarithm.
    """

    recall: float = 0.5
    logarithm: bool = False
    alpha: float = 100.0
    greater_is_better: ClassVar[bool] = True
    _needs_both: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name with the recall."""
        return f"{'log_' if self.logarithm else ''}weighted_precision@{self.recall:g}"

    def _of_curve(self, fake: Floats, real: Floats, last_of_tie: Booleans) -> Floats:
        hits = np.cumsum(fake, axis=1)
        # A recall of exactly `recall` must count although sums of weights round: 1e-12 is far below one item.
        reached = last_of_tie & (hits >= self.recall * hits[:, -1:] * (1 - 1e-12))
        at = np.argmax(reached, axis=1)[:, None]
        hit = np.take_along_axis(hits, at, axis=1)[:, 0]
        alarms = np.take_along_axis(np.cumsum(real, axis=1), at, axis=1)[:, 0]
        weighted = hit / (hit + self.alpha * alarms)
        return np.log(weighted) if self.logarithm else weighted


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error: mean over bins of |share of fakes - mean prediction|, weighted by the bins' items.

    Bins of equal width over [0, 1], closed on the right, as in Guo et al., On Calibration of Modern Neural Networks
    (2017), taken of P(fake) rather than of the confidence in the predicted class.
    """

    bins: int = 15
    greater_is_better: ClassVar[bool] = False
    is_mean: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name with the number of bins."""
        return f"calibration_error@{self.bins}"

    def score(self, labels: Floats, predictions: Floats, sample_weight: Floats | None = None) -> Floats:
        """The error of each submission; shape (submissions,)."""
        given = _checked(labels, predictions, sample_weight)
        weight = np.ones(labels.size) if given is None else given
        scores = np.full(len(predictions), np.nan)
        if weight.sum() == 0:
            return scores
        edges = np.linspace(0.0, 1.0, self.bins + 1)[1:-1]
        for block in row_blocks(*predictions.shape):
            rows = predictions[block]
            cell = np.searchsorted(edges, rows) + self.bins * np.arange(len(rows))[:, None]
            gap = np.bincount(cell.ravel(), ((rows - labels) * weight).ravel(), minlength=self.bins * len(rows))
            scores[block] = np.abs(gap.reshape(len(rows), self.bins)).sum(axis=1) / weight.sum()
        return scores


def _checked(labels: Floats, predictions: Floats, sample_weight: Floats | None) -> Floats | None:
    if predictions.ndim != 2 or predictions.shape[1:] != labels.shape:
        raise ValueError(f"predictions of shape {predictions.shape} do not fit labels of shape {labels.shape}")
    if not np.isin(labels, (0.0, 1.0)).all():
        raise ValueError("a label is neither 0 nor 1")
    if sample_weight is None:
        return None
    if sample_weight.shape != labels.shape or not (np.isfinite(sample_weight) & (sample_weight >= 0)).all():
        raise ValueError("sample_weight must have one finite weight, zero or more, for each item")
    return sample_weight


def _plain(kind: type[Brier] | type[RocAuc] | type[AveragePrecision]) -> MetricFactory:
    def make(parameter: float | None, epsilon: float) -> Brier | RocAuc | AveragePrecision:
        del epsilon
        _refuse_parameter(kind.name, parameter)
        return kind()

    return make


def _refuse_parameter(name: str, parameter: float | None) -> None:
    if parameter is not None:
        raise ConfigurationError(f"The metric {name} takes no parameter.", hint=f"Write {name} without @.")


def _share(name: str, parameter: float | None) -> float:
    if parameter is None:
        return 0.5
    if not 0 < parameter <= 1:
        raise ConfigurationError(
            f"The parameter of {name} is {parameter:g}, which is not between 0 and 1.", hint=f"Write {name}@0.5."
        )
    return parameter


def _log_loss(parameter: float | None, epsilon: float) -> LogLoss:
    _refuse_parameter("log_loss", parameter)
    return LogLoss(epsilon)


def _calibration_error(parameter: float | None, epsilon: float) -> CalibrationError:
    del epsilon
    bins = 15.0 if parameter is None else parameter
    if not bins.is_integer() or not 1 <= bins <= 10_000:
        raise ConfigurationError(
            f"The parameter of calibration_error is {bins:g}, which is no number of bins.",
            hint="Write calibration_error@15.",
        )
    return CalibrationError(int(bins))


BUILT_IN: dict[str, MetricFactory] = {
    "log_loss": _log_loss,
    "brier": _plain(Brier),
    "roc_auc": _plain(RocAuc),
    "average_precision": _plain(AveragePrecision),
    "accuracy": lambda parameter, _: Accuracy(_share("accuracy", parameter)),
    "calibration_error": _calibration_error,
    "weighted_precision": lambda parameter, _: WeightedPrecision(_share("weighted_precision", parameter)),
    "log_weighted_precision": lambda parameter, _: WeightedPrecision(
        _share("log_weighted_precision", parameter), logarithm=True
    ),
}
