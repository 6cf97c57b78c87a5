"""The prize boundary: how few items decide who wins.

First and second place of DFDC differed by 0.00044 in log loss over 10,000 videos: 4.4 nats in all, less than one
confident mistake. For a boundary behind place k this module names every single item whose removal, or whose label if
it were the other one, would change which entries stand before the boundary; and how many items it takes at least to
bring the best entry behind it past the last one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from referee.scoring.metric import Booleans, Floats, MeanMetric, row_blocks
from referee.scoring.resampling import Places


@dataclass(frozen=True, slots=True)
class Boundary:
    """What hangs on single items at one boundary.

    Attributes:
        place: the boundary lies behind this many entries.
        winner: index of the last entry before it.
        runner_up: index of the first entry behind it.
        gap: difference of their scores, zero or more.
        gap_total: the same, summed over the items (nats, for log loss).
        by_removal: items (indices) any one of whose removal would change who stands before the boundary.
        by_relabelling: items any one of whose relabelling would.
        fewest_removals: how many items have to go for `runner_up` to pass `winner`, at the least; None if none suffice.
        fewest_relabellings: how many labels have to change for that; None if none suffice.
    """

    place: int
    winner: int
    runner_up: int
    gap: float
    gap_total: float
    by_removal: tuple[int, ...]
    by_relabelling: tuple[int, ...]
    fewest_removals: int | None
    fewest_relabellings: int | None


def prize_boundary(
    metric: MeanMetric, labels: Floats, predictions: Floats, place: int, tie_break: Sequence[int] | None = None
) -> Boundary:
    """What hangs on single items at the boundary behind `place` entries.

    An item counts if, without it or with its other label, an entry from behind the boundary would be strictly better
    than one before it.

    Args:
        metric: a mean over items.
        labels: 0.0 or 1.0; shape (items,).
        predictions: P(fake); shape (entries, items).
        place: at least 1 and fewer than the entries.
        tie_break: position of each entry among equal scores, such as the order of blind ids; by default its index.

    Raises:
        ValueError: if the boundary lies outside of the board.
    """
    entries, items = predictions.shape
    if not 1 <= place < entries:
        raise ValueError(f"there is no boundary behind place {place} of {entries} entries")
    sign = -1.0 if metric.greater_is_better else 1.0  # from here on smaller is better
    totals = np.empty(entries)
    for block in row_blocks(entries, items):
        totals[block] = sign * metric.per_item(labels, predictions[block]).sum(axis=1)
    order = np.lexsort((np.arange(entries) if tie_break is None else np.asarray(tie_break), totals))
    before, behind = order[:place], order[place:]
    removed, relabelled = _changes(metric, sign, labels, predictions, totals, before, behind)
    winner, runner_up = int(before[-1]), int(behind[0])
    pair = sign * metric.per_item(labels, predictions[[winner, runner_up]])
    flipped = sign * metric.per_item(1.0 - labels, predictions[[winner, runner_up]])
    kept = pair[1] - pair[0]
    gap_total = float(kept.sum())
    return Boundary(
        place=place,
        winner=winner,
        runner_up=runner_up,
        gap=gap_total / items,
        gap_total=gap_total,
        by_removal=tuple(np.flatnonzero(removed).tolist()),
        by_relabelling=tuple(np.flatnonzero(relabelled).tolist()),
        fewest_removals=_fewest(gap_total, kept),
        fewest_relabellings=_fewest(gap_total, kept - (flipped[1] - flipped[0])),
    )


def _changes(
    metric: MeanMetric,
    sign: float,
    labels: Floats,
    predictions: Floats,
    totals: Floats,
    before: Places,
    behind: Places,
) -> tuple[Booleans, Booleans]:
    """For each item whether its removal, and whether its relabelling, lets one from behind pass one before."""
    items = labels.size
    worst, best = np.full((2, items), -np.inf), np.full((2, items), np.inf)
    for side, extreme, found in ((before, np.maximum, worst), (behind, np.minimum, best)):
        for block in row_blocks(side.size, items):
            rows = side[block]
            own = sign * metric.per_item(labels, predictions[rows])
            other = sign * metric.per_item(1.0 - labels, predictions[rows])
            without = totals[rows, None] - own
            found[0] = extreme(found[0], extreme.reduce(without, axis=0))
            found[1] = extreme(found[1], extreme.reduce(without + other, axis=0))
    # Sums of ten thousand terms round in the last digits; what differs by less is a tie and changes nothing.
    slack = 1e-12 * np.abs(totals).max()
    changed = best < worst - slack
    return changed[0], changed[1]


def _fewest(gap: float, gains: Floats) -> int | None:
    """How many of the largest gains exceed the gap."""
    reached = np.cumsum(-np.sort(-gains)) > gap
    return int(np.argmax(reached)) + 1 if reached.any() else None
