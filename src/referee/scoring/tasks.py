"""What the scoring process can be ordered to do with labels and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from referee.scoring.metric import Floats, Metric, constant_half

_BATCH_VALUES = 2**22  # 32 MiB of float64 wait for the metrics at a time


@dataclass(frozen=True, slots=True)
class Given:
    """The order, and what it is about. `predictions` are read one after the other, and only once."""

    order: dict[str, Any]
    metrics: tuple[Metric, ...]
    names: tuple[str, ...]
    labels: Floats
    predictions: Iterator[tuple[str, Floats]]
    refused: dict[str, str]


def score(given: Given) -> dict[str, Any]:
    """Every metric of every prediction file, and of a constant 0.5."""
    scores: dict[str, dict[str, str]] = {}
    batch: dict[str, Floats] = {}

    def score_batch() -> None:
        if not batch:
            return
        board = np.stack(list(batch.values()))
        columns = {metric.name: metric.score(given.labels, board) for metric in given.metrics}
        for place, evaluation in enumerate(batch):
            found = {name: float(values[place]) for name, values in columns.items()}
            # An undefined score is no score: the ledger holds finite numbers, as the text that reads back the same.
            scores[evaluation] = {name: repr(value) for name, value in found.items() if np.isfinite(value)}
            if not scores[evaluation]:
                given.refused[evaluation] = "No metric of the challenge is defined for these predictions."
        batch.clear()

    for evaluation, values in given.predictions:
        batch[evaluation] = values
        if len(batch) * given.labels.size >= _BATCH_VALUES:
            score_batch()
    score_batch()
    reference = constant_half(given.metrics[0], given.labels)
    return {"scores": scores, "reference": None if reference is None else repr(reference)}


def analysis(given: Given) -> dict[str, Any]:
    """Uncertainty, boundaries, groups and look-alikes of the whole board."""
    # A second to load, which scoring alone should not pay.
    from referee.scoring.analysis import AnalysisOrder, analyse  # noqa: PLC0415 - see above

    read = dict(given.predictions)
    board = np.stack(list(read.values())) if read else np.empty((0, given.labels.size))
    order = AnalysisOrder.model_validate(given.order["analysis"])
    found = analyse(order, given.metrics[0], given.names, given.labels, tuple(read), board)
    return {"analysis": found.model_dump(mode="json")}


def reproduction(given: Given) -> dict[str, Any]:
    """Re-runs against what was recorded."""
    from referee.scoring.recheck import FOUND, RecheckOrder, recheck  # noqa: PLC0415 - as above

    order = RecheckOrder.model_validate(given.order["reproduction"])
    found = recheck(order, given.metrics[0], given.labels, dict(given.predictions))
    return {"reproduction": FOUND.dump_python(found, mode="json")}


TASKS: dict[str, Callable[[Given], dict[str, Any]]] = {
    "score": score,
    "analysis": analysis,
    "reproduction": reproduction,
}
