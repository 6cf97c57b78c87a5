"""Paired comparisons of all entries: which differences hold, which ranks are possible, who is tied with whom.

The covariance of the scores comes from one Gram matrix of centred contributions (summed over clusters where there are
any), so the standard error of each difference is exact for the pairing: two entries that err on the same items differ
by less than their own intervals suggest. Tests are Student's t with (units - 1) degrees of freedom, and every family
of tests is corrected by Holm (1979), which needs no assumption about their dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from referee.scoring.metric import Floats
from referee.scoring.resampling import Replicates, cluster_sums

Integers = NDArray[np.intp]

_ROUNDING = 1e-12  # variances of a difference below this part of the two variances are rounding, not evidence


@dataclass(frozen=True, slots=True)
class Board:
    """Scores with their covariance.

    Attributes:
        scores: shape (entries,).
        covariance: of the scores; shape (entries, entries).
        units: items or clusters that it rests on.
        greater_is_better: the metric's direction.
    """

    scores: Floats
    covariance: Floats
    units: int
    greater_is_better: bool


def board_of_means(contributions: Floats, *, greater_is_better: bool, clusters: Sequence[str] | None = None) -> Board:
    """The board of a metric that is a mean over items; `contributions` has shape (entries, items)."""
    scores = contributions.mean(axis=1)
    sums, sizes = cluster_sums(contributions, scores, clusters)
    units = sizes.size
    covariance: Floats = sums @ sums.T
    covariance *= units / ((units - 1) * sizes.sum() ** 2)
    return Board(scores, covariance, units, greater_is_better)


def board_of_replicates(replicates: Replicates) -> Board:
    """The board of anything that was resampled (a metric that is no mean, a team's best final).

    Where entries are minima of finals this is an approximation: a minimum near a tie is not normal.
    """
    centred = replicates.deviations - replicates.deviations.mean(axis=0)
    covariance = (centred.T @ centred).astype(np.float64) / (len(centred) - 1)
    covariance *= replicates.units / max(1, replicates.units - 1)
    spread = covariance[np.ix_(replicates.column, replicates.column)]
    return Board(replicates.scores, spread, replicates.units, replicates.greater_is_better)


def paired_z(board: Board, rows: slice = slice(None)) -> Floats:
    """Difference of each pair over its standard error, positive where the row's entry is better.

    Two entries that cannot be told apart have 0; a difference without any variance is infinite.
    """
    variances = np.diagonal(board.covariance)
    both = variances[rows, None] + variances[None, :]
    spread = both - 2 * board.covariance[rows]
    gap = board.scores[None, :] - board.scores[rows, None]
    if board.greater_is_better:
        gap = -gap
    sure = spread <= _ROUNDING * both
    gap[sure & (np.abs(gap) <= _ROUNDING)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        z: Floats = gap / np.sqrt(np.where(sure, 0.0, spread))
    z[gap == 0] = 0.0
    return z


@dataclass(frozen=True, slots=True)
class RankSets:
    """For each entry a set of ranks, low to high, that holds its true rank with probability of at least `level`.

    Each set is for its own entry: that all sets hold at once is not claimed.
    """

    level: float
    low: Integers
    high: Integers


def rank_sets(board: Board, level: float = 0.9) -> RankSets:
    """Confidence sets for ranks by inverting paired tests.

    An entry is tested against every other at once, with a family-wise error of 1 - level; its rank is at least one
    more than the number shown to be better, and at most the number not shown to be worse. Method: Mogstad, Romano,
    Shaikh and Wilhelm, Inference for Ranks (Review of Economic Studies, 2024), with Holm's step-down in place of
    their bootstrap, which covers at least as often.
    """
    entries = board.scores.size
    low, high = np.ones(entries, dtype=np.intp), np.full(entries, entries, dtype=np.intp)
    if entries == 1:
        return RankSets(level, low, high)
    critical = _critical(1 - level, entries - 1, board.units)
    step = max(1, 2**22 // entries)
    for start in range(0, entries, step):
        rows = slice(start, min(start + step, entries))
        z = paired_z(board, rows)
        # The entry itself has z = 0 and falls to the end of the falling order, where it is never reached.
        strength = -np.sort(-np.abs(z), axis=1)[:, : entries - 1]
        holds = np.logical_and.accumulate(strength >= critical, axis=1)
        rejected = holds.sum(axis=1)
        edge = np.where(
            rejected > 0, np.take_along_axis(strength, np.maximum(rejected - 1, 0)[:, None], axis=1)[:, 0], np.inf
        )
        shown = (np.abs(z) >= edge[:, None]) & (rejected > 0)[:, None]
        low[rows] = 1 + (shown & (z < 0)).sum(axis=1)
        high[rows] = entries - (shown & (z > 0)).sum(axis=1)
    return RankSets(level, low, high)


def tie_groups(board: Board, error: float = 0.05) -> Integers:
    """The tie group of each entry, 1 for the best.

    All pairs are tested with a family-wise error of `error`. The best entry that is left is the anchor of the next
    group, and whoever it is not shown to beat belongs to that group. With probability of at least 1 - error every
    claim is true, and the claims are: each anchor beats every entry of every lower group. Within a group, and between
    other members of groups, nothing is claimed.
    """
    entries = board.scores.size
    z = paired_z(board)
    upper = np.abs(z[np.triu_indices(entries, 1)])
    edge = _holm_edge(upper, error, board.units)
    groups = np.zeros(entries, dtype=np.intp)
    remaining = np.lexsort((np.arange(entries), -board.scores if board.greater_is_better else board.scores))
    group = 0
    while remaining.size:
        group += 1
        tied = z[remaining[0], remaining] < edge
        tied[0] = True
        groups[remaining[tied]] = group
        remaining = remaining[~tied]
    return groups


def _critical(error: float, tests: int, units: int) -> Floats:
    """Holm's two-sided critical values, for the strongest test first; shape (tests,)."""
    from scipy.special import stdtrit  # noqa: PLC0415 - a quarter of a second, which commands without analysis save

    shares = error / 2 / np.arange(tests, 0, -1)
    critical: Floats = -stdtrit(units - 1, shares)
    return critical


def _holm_edge(strengths: Floats, error: float, units: int) -> float:
    """The weakest strength that Holm's step-down still rejects; infinite if none is."""
    from scipy.special import stdtr  # noqa: PLC0415 - the same

    falling = -np.sort(-strengths)
    p = 2 * stdtr(units - 1, -falling)
    fails = p > error / np.arange(strengths.size, 0, -1)
    rejected = int(np.argmax(fails)) if fails.any() else strengths.size
    return float(falling[rejected - 1]) if rejected else np.inf
