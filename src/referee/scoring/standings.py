"""The board with its uncertainty: for each entry what its score and rank are worth, by declared rules.

Everything here is seeded: the same predictions, labels and choice give the same standings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from referee.challenge import Frozen, Reduction, UncertaintyChoice
from referee.scoring.comparisons import Board, board_of_means, board_of_replicates, rank_sets, tie_groups
from referee.scoring.leaderboard import competition_ranks
from referee.scoring.metric import Floats, MeanMetric, Metric
from referee.scoring.resampling import Replicates, bootstrap, bootstrap_means, reduce_to_teams
from referee.scoring.uncertainty import intervals, rank_ranges, share_of_resamples_won

_FEW_CLUSTERS = 30


class Standing(Frozen):
    """One entry.

    Attributes:
        entry: blind id of the submission, or of the team.
        rank: by score; equal scores share the best.
        score_low: interval of the score.
        score_high: its upper end.
        rank_low: confidence set of the rank (from inverted paired tests).
        rank_high: its upper end.
        range_low: the middle ranks over the resamples, which is a description and no claim.
        range_high: its upper end.
        tie_group: 1 for the best; each group's anchor (its best) beats every entry of every lower group.
        share_won_against_next: share of resamples in which it beats the entry that follows it; None for the last.
    """

    entry: str
    rank: int
    score: float
    score_low: float
    score_high: float
    rank_low: int
    rank_high: int
    range_low: int
    range_high: int
    tie_group: int
    share_won_against_next: float | None


class Standings(Frozen):
    """The entries, best first, and what their uncertainty rests on. `warnings` are sentences to be shown beside."""

    metric: str
    entries: tuple[Standing, ...]
    level: float
    replicates: int
    seed: int
    units: int
    clustered: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands on the board: a submission, or a team with its finals as rows of the predictions."""

    name: str
    rows: tuple[int, ...]


def standings(
    metric: Metric,
    labels: Floats,
    predictions: Floats,
    entries: Sequence[Entry],
    choice: UncertaintyChoice,
    clusters: Sequence[str] | None = None,
) -> Standings:
    """The board with intervals, rank sets and tie groups.

    Args:
        metric: the primary metric.
        labels: 0.0 or 1.0; shape (items,).
        predictions: P(fake); shape (submissions, items).
        entries: who stands on the board; a team's finals in the order of submission.
        choice: as declared beforehand.
        clusters: the cluster of each item, if the metadata names one.

    Raises:
        ValueError: if there is no entry, or a score is undefined.
    """
    if not entries:
        raise ValueError("there is nobody to be ranked")
    replicates, board = _resampled(metric, labels, predictions, entries, choice, clusters)
    if not np.isfinite(board.scores).all():
        raise ValueError(f"{metric.name} is undefined for an entry")
    spread, ranges = intervals(replicates, choice.level), rank_ranges(replicates, choice.level)
    sets, groups = rank_sets(board, choice.level), tie_groups(board, choice.tie_error)
    ranks = competition_ranks(board.scores.tolist(), greater_is_better=metric.greater_is_better)
    order = sorted(range(len(entries)), key=lambda place: (ranks[place], entries[place].name))
    following = dict(pairwise(order))
    found = [
        Standing(
            entry=entries[place].name,
            rank=ranks[place],
            score=float(board.scores[place]),
            score_low=float(spread.low[place]),
            score_high=float(spread.high[place]),
            rank_low=int(sets.low[place]),
            rank_high=int(sets.high[place]),
            range_low=int(ranges.low[place]),
            range_high=int(ranges.high[place]),
            tie_group=int(groups[place]),
            share_won_against_next=(
                share_of_resamples_won(replicates, place, following[place]) if place in following else None
            ),
        )
        for place in order
    ]
    return Standings(
        metric=metric.name,
        entries=tuple(found),
        level=choice.level,
        replicates=choice.replicates,
        seed=choice.seed,
        units=replicates.units,
        clustered=replicates.clustered,
        warnings=_warnings(metric.name, replicates, choice),
    )


def _resampled(
    metric: Metric,
    labels: Floats,
    predictions: Floats,
    entries: Sequence[Entry],
    choice: UncertaintyChoice,
    clusters: Sequence[str] | None,
) -> tuple[Replicates, Board]:
    linear = choice.teams is not Reduction.BEST or all(len(entry.rows) == 1 for entry in entries)
    if isinstance(metric, MeanMetric) and metric.is_mean and linear:
        contributions = metric.per_item(labels, predictions)
        rows = np.stack([_reduced(contributions, entry.rows, choice.teams) for entry in entries])
        better = metric.greater_is_better
        replicates = bootstrap_means(
            rows, greater_is_better=better, clusters=clusters, replicates=choice.replicates, seed=choice.seed
        )
        return replicates, board_of_means(rows, greater_is_better=better, clusters=clusters)
    each = bootstrap(metric, labels, predictions, clusters=clusters, replicates=choice.replicates, seed=choice.seed)
    replicates = reduce_to_teams(each, [entry.rows for entry in entries], choice.teams or Reduction.LAST)
    return replicates, board_of_replicates(replicates)


def _reduced(contributions: Floats, rows: tuple[int, ...], reduction: Reduction | None) -> Floats:
    """An entry's own contributions: of its only or last final, or the mean over its finals."""
    mean: Floats = contributions[list(rows)].mean(axis=0)
    return mean if reduction is Reduction.MEAN and len(rows) > 1 else contributions[rows[-1]]


def _warnings(metric: str, replicates: Replicates, choice: UncertaintyChoice) -> tuple[str, ...]:
    found = []
    if not replicates.clustered:
        found.append(
            "Items were drawn singly. If several come from one source or identity, these intervals are too narrow: "
            "name that metadata column as cluster_column."
        )
    elif replicates.units < _FEW_CLUSTERS:
        found.append(f"Only {replicates.units} clusters were drawn, so the intervals are rough.")
    if replicates.undefined:
        found.append(
            f"In {replicates.undefined} of the {choice.replicates} resamples {metric} was undefined, since a class was "
            "missing; they were left out, and the intervals are of the others."
        )
    if choice.teams is Reduction.BEST:
        found.append("A team's best final is chosen by the same scores that rank it; its rank set is an approximation.")
    return tuple(found)
