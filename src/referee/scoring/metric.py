"""What a metric is, and how a challenge finds it by name.

Metrics are trusted code: they see the labels. A package adds its own under the entry point group `referee.metrics`,
as a function `(parameter: float | None, epsilon: float) -> Metric`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from referee.challenge import MetricChoice
from referee.errors import ConfigurationError

ENTRY_POINT_GROUP = "referee.metrics"
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
MetricFactory = Callable[[float | None, float], "Metric"]

_NAME = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?:@(?P<parameter>[0-9]+(?:\.[0-9]+)?))?", re.ASCII)
_BLOCK_ELEMENTS = 2**21  # 16 MiB of float64: large enough for numpy's loops, small enough for many temporaries


@runtime_checkable
class Metric(Protocol):
    """A score of predictions against labels.

    Attributes:
        name: as in `challenge.toml`, with its parameter (`accuracy@0.5`).
        greater_is_better: which direction wins.
        is_mean: the score is the (weighted) mean over the items of `MeanMetric.per_item`.
    """

    @property
    def name(self) -> str: ...

    @property
    def greater_is_better(self) -> bool: ...

    @property
    def is_mean(self) -> bool: ...

    def score(self, labels: Floats, predictions: Floats, sample_weight: Floats | None = None) -> Floats:
        """The score of each submission.

        Args:
            labels: 0.0 or 1.0 for each item; shape (items,).
            predictions: P(fake); shape (submissions, items).
            sample_weight: weight of each item, zero or more; shape (items,).

        Returns:
            float64, shape (submissions,); NaN where the score is undefined. A row's score does not depend on the other
            rows, so equal predictions always get equal scores.
        """
        ...


@runtime_checkable
class MeanMetric(Metric, Protocol):
    """A metric that is a mean over items, for which resampling is a matrix product."""

    def per_item(self, labels: Floats, predictions: Floats) -> Floats:
        """What each item contributes; shape (submissions, items)."""
        ...


def find_metric(name: str, epsilon: float = 1e-15) -> Metric:
    """The metric called `name`, which may carry a parameter: `accuracy@0.7`.

    Args:
        name: a built-in metric's name, or one that an installed package offers.
        epsilon: predictions are clipped to [epsilon, 1 - epsilon] where the metric takes logarithms of them.

    Raises:
        ConfigurationError: if there is no such metric, with those that there are.
    """
    match = _NAME.fullmatch(name)
    known = _factories()
    if match is None or match["name"] not in known:
        raise ConfigurationError(
            f"There is no metric {name!r}.",
            hint=f"Choose one of: {', '.join(sorted(known))}; a parameter follows after @, as in accuracy@0.5.",
        )
    parameter = None if match["parameter"] is None else float(match["parameter"])
    factory = known[match["name"]]
    try:
        metric = factory.load()(parameter, epsilon) if isinstance(factory, EntryPoint) else factory(parameter, epsilon)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The metric {name!r} cannot be loaded: {error}.", hint="Reinstall the package that offers it."
        ) from error
    if not isinstance(metric, Metric):
        raise ConfigurationError(
            f"What was installed as the metric {name!r} is none.",
            hint="It lacks a part of referee.scoring.metric.Metric.",
        )
    return metric


def chosen_metrics(choice: MetricChoice) -> tuple[Metric, ...]:
    """The challenge's primary metric, and after it the secondary ones, each once."""
    names = dict.fromkeys((choice.name, *choice.secondary))
    return tuple(find_metric(name, choice.epsilon) for name in names)


def constant_half(metric: Metric, labels: Floats | None = None) -> float | None:
    """What predicting 0.5 for every item scores.

    Without labels, only where the answer is the same for all labels (log loss, Brier score, ROC AUC); else None.
    """
    cases = [labels] if labels is not None else [np.array(case) for case in ([0.0], [1.0], [0.0, 1.0], [0.0, 1.0, 1.0])]
    found = {float(metric.score(case, np.full((1, case.size), 0.5))[0]) for case in cases}
    finite = {value for value in found if math.isfinite(value)}
    return finite.pop() if len(finite) == 1 else None


def row_blocks(rows: int, items: int) -> Iterator[slice]:
    """Slices of at most about two million elements, so that temporaries stay small whatever the board's size."""
    step = max(1, _BLOCK_ELEMENTS // max(1, items))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _factories() -> dict[str, MetricFactory | EntryPoint]:
    from referee.scoring.metrics import BUILT_IN  # noqa: PLC0415 - the built-in metrics are written in this module's words

    offered: Iterable[EntryPoint] = entry_points(group=ENTRY_POINT_GROUP)
    # A built-in name cannot be taken by a package: `log_loss` means the same in every challenge.
    return {point.name: point for point in offered} | BUILT_IN
