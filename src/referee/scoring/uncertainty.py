"""What the replicates say: intervals of scores, ranges of ranks, and how often one entry beats another."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from referee.scoring.metric import Floats
from referee.scoring.resampling import Replicates, Singles

Ranks = NDArray[np.int32]
Kind = TypeVar("Kind", bound=np.generic)

_BLOCK = 500


@dataclass(frozen=True, slots=True)
class Intervals:
    """Percentile intervals of the scores at `level`; arrays of shape (entries,)."""

    level: float
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class RankRanges:
    """Between which ranks the middle `level` of the replicates put each entry; arrays of shape (entries,).

    This describes the replicates. It is no confidence set: near ties it misses the true rank far more often than
    `level` says, because a replicate adds its own noise to ranks that noise already spread. For claims use
    `comparisons.rank_sets`.
    """

    level: float
    low: Ranks
    high: Ranks


def intervals(replicates: Replicates, level: float = 0.9) -> Intervals:
    """Percentile intervals, widened by sqrt(u / (u - 1)) for u units, as a bootstrap of few units is too narrow."""
    low_place, high_place = _order_places(len(replicates.deviations), level)
    wide = math.sqrt(replicates.units / max(1, replicates.units - 1))
    singles = _order_statistics(replicates.deviations, low_place, high_place)
    scores, column = replicates.scores, replicates.column
    low, high = (found[column].astype(np.float64) for found in singles)
    return Intervals(level, scores + wide * low, scores + wide * high)


def rank_ranges(replicates: Replicates, level: float = 0.9) -> RankRanges:
    """The range of each entry's ranks over the replicates; equal scores share the best rank in each of them."""
    low_place, high_place = _order_places(len(replicates.deviations), level)
    low, high = _order_statistics(_replicate_ranks(replicates), low_place, high_place)
    column = replicates.column
    return RankRanges(level, low[column].astype(np.int32), high[column].astype(np.int32))


def share_of_resamples_won(replicates: Replicates, entry: int, other: int) -> float:
    """Share of resamples in which `entry` beats `other`; a draw is won by neither.

    It is no probability of being better.
    """
    pair = np.array([entry, other])
    if np.unique(replicates.column[pair]).size == 1:
        return 0.0
    one, two = replicates.values(entries=pair).T
    return float(np.mean(one > two if replicates.greater_is_better else one < two))


def _order_places(replicates: int, level: float) -> tuple[int, int]:
    """Places of the two order statistics that enclose `level` of the replicates."""
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1")
    tail = (1 - level) / 2
    low = max(0, math.floor((replicates + 1) * tail + 1e-9) - 1)
    return low, replicates - 1 - low


def _replicate_ranks(replicates: Replicates) -> NDArray[np.uint16]:
    """The rank of each column in each replicate; shape (replicates, columns)."""
    sizes = np.bincount(replicates.column).astype(np.int32)
    ranks = np.empty(replicates.deviations.shape, dtype=np.uint16 if replicates.scores.size < 2**16 else np.uint32)

    def rank(block: slice) -> None:
        values = replicates.values(block)
        ranks[block] = _ranks_by_row(-values if replicates.greater_is_better else values, sizes)

    _by_blocks(rank, len(ranks))
    return ranks


def _order_statistics(rows: NDArray[Kind], low_place: int, high_place: int) -> tuple[NDArray[Kind], NDArray[Kind]]:
    """The order statistics at two places of each column; `rows` has the shape (replicates, columns)."""
    low, high = np.empty(rows.shape[1], dtype=rows.dtype), np.empty(rows.shape[1], dtype=rows.dtype)

    def select(block: slice) -> None:
        part = np.ascontiguousarray(rows[:, block].T)
        part.partition((low_place, high_place), axis=1)
        low[block], high[block] = part[:, low_place], part[:, high_place]

    _by_blocks(select, rows.shape[1])
    return low, high


def _by_blocks(work: Callable[[slice], None], size: int) -> None:
    """Do the work in blocks, one thread for each CPU: numpy sorts and selects without holding the interpreter."""
    blocks = [slice(start, start + _BLOCK) for start in range(0, size, _BLOCK)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(work, blocks):
            pass


def _ranks_by_row(values: Singles, sizes: NDArray[np.int32]) -> Ranks:
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    if (sizes == 1).all():
        ahead = np.broadcast_to(np.arange(1, sizes.size + 1, dtype=np.int32), order.shape)
    else:
        ahead = np.cumsum(sizes[order], axis=1, dtype=np.int32) - sizes[order] + 1
    tied = ordered[:, 1:] == ordered[:, :-1]
    if tied.any():
        ahead = ahead.copy()
        ahead[:, 1:][tied] = 0
        np.maximum.accumulate(ahead, axis=1, out=ahead)
    ranks = np.empty(values.shape, dtype=np.int32)
    np.put_along_axis(ranks, order, ahead, axis=1)
    return ranks
