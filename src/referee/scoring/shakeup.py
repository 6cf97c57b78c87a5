"""The shake-up from the public to the private phase, scores by group, and reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from referee.scoring.leaderboard import Leaderboard, competition_ranks
from referee.scoring.metric import Floats, Metric


@dataclass(frozen=True, slots=True)
class Move:
    """One submission on both boards, ranked among those that are on both. `moved` is positive for who climbed."""

    submission: str
    public_rank: int
    private_rank: int
    public_score: float
    private_score: float
    moved: int


@dataclass(frozen=True, slots=True)
class ShakeUp:
    """How far the public board foretold the private one.

    Attributes:
        moves: by private rank.
        spearman: rank correlation of the scores; None with fewer than two submissions, or where one board is all tied.
        kendall: Kendall's tau-b, likewise.
        kept_top: of the public top ten (or fewer) how many are in the private top of the same size.
        top: that size.
        median_move: the median of |moved|.
    """

    moves: tuple[Move, ...]
    spearman: float | None
    kendall: float | None
    kept_top: int
    top: int
    median_move: float


def shake_up(public: Leaderboard, private: Leaderboard, top: int = 10) -> ShakeUp:
    """Compare two boards of the same metric over the submissions that both have scored."""
    from scipy.stats import kendalltau, spearmanr  # noqa: PLC0415 - a second to load, which few callers should pay

    theirs = {row.submission: row.score for row in public.rows}
    both = [row for row in private.rows if row.submission in theirs]
    before = [theirs[row.submission] for row in both]
    after = [row.score for row in both]
    public_ranks = competition_ranks(before, greater_is_better=public.greater_is_better)
    private_ranks = competition_ranks(after, greater_is_better=private.greater_is_better)
    moves = tuple(
        Move(row.submission, was, now, old, row.score, was - now)
        for row, was, now, old in zip(both, public_ranks, private_ranks, before, strict=True)
    )
    size = min(top, len(moves))
    kept = sum(move.public_rank <= size and move.private_rank <= size for move in moves)
    varied = len(set(before)) > 1 and len(set(after)) > 1
    return ShakeUp(
        moves=moves,
        spearman=float(spearmanr(before, after).statistic) if varied else None,
        kendall=float(kendalltau(before, after).statistic) if varied else None,
        kept_top=kept,
        top=size,
        median_move=float(np.median([abs(move.moved) for move in moves])) if moves else 0.0,
    )


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Scores over the items of one group; `scores` has shape (submissions,), NaN where the metric is undefined."""

    group: str
    items: int
    scores: Floats


def scores_by_group(
    metric: Metric, labels: Floats, predictions: Floats, groups: Sequence[str]
) -> tuple[GroupScores, ...]:
    """Each submission's score over each group of items (a metadata column: visibility, manipulation, organic or not).

    Args:
        metric: any metric.
        labels: 0.0 or 1.0; shape (items,).
        predictions: P(fake); shape (submissions, items).
        groups: the group of each item.

    Raises:
        ValueError: if there are not as many groups as items.
    """
    if len(groups) != labels.size:
        raise ValueError(f"{len(groups)} groups do not fit {labels.size} items")
    column = np.asarray(groups)
    return tuple(
        GroupScores(str(group), int((column == group).sum()), metric.score(labels[of], predictions[:, of]))
        for group in sorted(set(groups))
        for of in (column == group,)
    )


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Items whose prediction lies in (low, high], with the mean prediction and the share of fakes among them."""

    low: float
    high: float
    items: int
    mean_prediction: float
    share_of_fakes: float


def reliability(labels: Floats, predictions: Floats, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram of one submission: bins of equal width without the empty ones; shapes (items,)."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    cell = np.searchsorted(edges[1:-1], predictions)
    return tuple(
        ReliabilityBin(
            float(edges[place]),
            float(edges[place + 1]),
            int(inside.sum()),
            float(predictions[inside].mean()),
            float(labels[inside].mean()),
        )
        for place in range(bins)
        for inside in (cell == place,)
        if inside.any()
    )
