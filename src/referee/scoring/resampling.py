"""The paired bootstrap: every replicate draws the items once, for all submissions together.

Where the metric is a mean over items, all replicates are one float32 matrix product of draw counts and centred
contributions. Where the metadata names clusters of items (a source video, an identity), whole clusters are drawn:
items of one cluster err together, and drawing them singly would promise too much.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from referee.challenge import Reduction
from referee.scoring.metric import Floats, MeanMetric, Metric

Singles = NDArray[np.float32]
Places = NDArray[np.intp]

# Part of the meaning of a seed: the draws are made in blocks of this many replicates.
_BLOCK_REPLICATES = 500
_BLOCK_ROWS = 128


@dataclass(frozen=True, slots=True)
class Replicates:
    """What the scores would have been on other draws of the items.

    Attributes:
        scores: the entries' scores on the items as they are; shape (entries,).
        deviations: score in the replicate minus `scores`, float32; shape (replicates, columns). Entries whose
            predictions are identical share a column, so that they can never be torn apart by rounding.
        column: of each entry; shape (entries,).
        greater_is_better: the metric's direction.
        units: how many items or clusters were drawn in each replicate.
        clustered: whether they were clusters.
        grain: scores are whole multiples of this (accuracy over n items: 1/n), so that chance ties are ties and not a
            matter of rounding; None where scores are continuous.
        seed: the same seed, data and version of numpy give the same replicates.
        undefined: draws that were left out because the metric is undefined on them (a class that was not drawn).
    """

    scores: Floats
    deviations: Singles
    column: Places
    greater_is_better: bool
    units: int
    clustered: bool
    seed: int
    grain: float | None = None
    undefined: int = 0

    def values(self, replicates: slice = slice(None), entries: Places | None = None) -> Singles:
        """Replicated scores of `entries` up to one common constant; shape (replicates, entries), float32.

        By default one entry of each column, in the order of the columns. Relative to one another scores fit float32
        where the contest is close, which is where it matters.
        """
        chosen = np.unique(self.column, return_index=True)[1] if entries is None else entries
        scores = self.scores[chosen]
        deviations = self.deviations[replicates]
        moved = deviations if entries is None else deviations[:, self.column[chosen]]
        if self.grain is not None:
            return np.rint((moved + scores) / self.grain).astype(np.float32)
        found: Singles = moved + (scores - np.median(scores)).astype(np.float32)
        return found


def bootstrap(
    metric: Metric,
    labels: Floats,
    predictions: Floats,
    *,
    clusters: Sequence[str] | None = None,
    replicates: int = 10_000,
    seed: int = 0,
) -> Replicates:
    """Resample the items of a board.

    Args:
        metric: any metric; one that is no mean over items is scored anew in each replicate, which is exact and slow.
        labels: 0.0 or 1.0; shape (items,).
        predictions: P(fake); shape (submissions, items).
        clusters: name of each item's cluster; None draws items singly.
        replicates: how many draws.
        seed: of the draws.

    Raises:
        ValueError: if a score is undefined on the items as they are.
    """
    cluster_of = cluster_numbers(clusters, labels.size)
    if isinstance(metric, MeanMetric) and metric.is_mean:
        contributions = metric.per_item(labels, predictions)
        return bootstrap_means(
            contributions,
            greater_is_better=metric.greater_is_better,
            clusters=clusters,
            replicates=replicates,
            seed=seed,
        )
    kept, column = _distinct_rows(predictions)
    scores = metric.score(labels, predictions)
    if not np.isfinite(scores).all():
        raise ValueError(f"{metric.name} is undefined for an entry")
    deviations = np.empty((replicates, len(kept)), dtype=np.float32)
    done = 0
    for counts in draw_counts(int(cluster_of.max()) + 1, replicates, seed):
        for row in counts:
            deviations[done] = (
                metric.score(labels, predictions[kept], row[cluster_of].astype(np.float64)) - scores[kept]
            )
            done += 1
    units = int(cluster_of.max()) + 1
    defined = np.isfinite(deviations).all(axis=1)
    return Replicates(
        scores,
        deviations[defined],
        column,
        metric.greater_is_better,
        units,
        clusters is not None,
        seed,
        undefined=int((~defined).sum()),
    )


def bootstrap_means(
    contributions: Floats,
    *,
    greater_is_better: bool,
    clusters: Sequence[str] | None = None,
    replicates: int = 10_000,
    seed: int = 0,
) -> Replicates:
    """Resample means: `contributions` is what each item adds to each entry's mean; shape (entries, items)."""
    items = contributions.shape[1]
    scores = contributions.mean(axis=1)
    kept, column = _distinct_rows(contributions)
    right, sizes = _singles_to_draw(contributions, scores, kept, clusters)
    deviations = np.empty((replicates, len(kept)), dtype=np.float32)
    start = 0
    for counts in draw_counts(sizes.size, replicates, seed):
        block = deviations[start : start + len(counts)]
        np.matmul(counts, right.T, out=block)
        drawn = counts @ sizes.astype(np.float32) if clusters is not None else np.full(len(counts), np.float32(items))
        block /= drawn[:, None]
        start += len(counts)
    grain = 1 / items if clusters is None and np.isin(contributions, (0.0, 1.0)).all() else None
    return Replicates(scores, deviations, column, greater_is_better, sizes.size, clusters is not None, seed, grain)


def _singles_to_draw(
    contributions: Floats, scores: Floats, kept: Places, clusters: Sequence[str] | None
) -> tuple[Singles, Floats]:
    """What `cluster_sums` gives for the rows `kept`, in float32."""
    if clusters is not None:
        sums, sizes = cluster_sums(contributions[kept], scores[kept], clusters)
        return np.ascontiguousarray(sums, dtype=np.float32), sizes
    # In blocks, since further copies of a whole board in float64 cost as much as a quarter of the product.
    singles = np.empty((len(kept), contributions.shape[1]), dtype=np.float32)
    for start in range(0, len(kept), _BLOCK_ROWS):
        rows = kept[start : start + _BLOCK_ROWS]
        np.subtract(
            contributions[rows], scores[rows, None], out=singles[start : start + len(rows)], casting="same_kind"
        )
    return singles, np.ones(contributions.shape[1])


def cluster_sums(contributions: Floats, scores: Floats, clusters: Sequence[str] | None) -> tuple[Floats, Floats]:
    """Deviations from the mean, summed over each cluster, and the clusters' sizes.

    Returns:
        Shapes (entries, clusters) and (clusters,); without clusters each item is one.
    """
    centred = contributions - scores[:, None]
    if clusters is None:
        return centred, np.ones(contributions.shape[1])
    number = cluster_numbers(clusters, contributions.shape[1])
    order = np.argsort(number, kind="stable")
    starts = np.searchsorted(number[order], np.arange(int(number.max()) + 1))
    return np.add.reduceat(centred[:, order], starts, axis=1), np.bincount(number).astype(np.float64)


def cluster_numbers(clusters: Sequence[str] | None, items: int) -> Places:
    """The number of each item's cluster, in order of the clusters' names; without clusters each item's own.

    Raises:
        ValueError: if there are not as many names as items, or only one cluster, which cannot be resampled.
    """
    if clusters is None:
        return np.arange(items)
    if len(clusters) != items:
        raise ValueError(f"{len(clusters)} cluster names do not fit {items} items")
    number: Places = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if number.max() == 0:
        raise ValueError("all items belong to one cluster, so nothing can be said about other draws")
    return number


def draw_counts(units: int, replicates: int, seed: int) -> Iterator[Singles]:
    """How often each of `units` is drawn in each replicate, in blocks; shape (up to 500, units), float32."""
    generator = np.random.default_rng(seed)
    for start in range(0, replicates, _BLOCK_REPLICATES):
        block = np.empty((min(_BLOCK_REPLICATES, replicates - start), units), dtype=np.float32)
        for row in block:
            row[:] = np.bincount(generator.integers(0, units, units), minlength=units)
        yield block


def reduce_to_teams(replicates: Replicates, teams: Sequence[Sequence[int]], reduction: Reduction) -> Replicates:
    """The teams' entries, reduced inside each replicate: a team's best final is another one in another draw.

    Args:
        replicates: of submissions.
        teams: for each team its finals as indices into `replicates.scores`, in the order of submission.
        reduction: as declared in advance.
    """
    best = np.argmax if replicates.greater_is_better else np.argmin
    extreme = np.maximum if replicates.greater_is_better else np.minimum
    scores = np.empty(len(teams))
    deviations = np.empty((len(replicates.deviations), len(teams)), dtype=np.float32)
    for place, finals in enumerate(teams):
        members = [finals[-1]] if reduction is Reduction.LAST else list(finals)
        points = replicates.scores[members]
        columns = [replicates.deviations[:, replicates.column[member]] for member in members]
        if reduction is Reduction.MEAN:
            scores[place] = points.mean()
            deviations[:, place] = np.mean(columns, axis=0)
            continue
        scores[place] = points[best(points)]
        offsets = (points - scores[place]).astype(np.float32)
        deviations[:, place] = extreme.reduce(
            [column + offset for column, offset in zip(columns, offsets, strict=True)]
        )
    kept, column = _distinct_rows(np.ascontiguousarray(deviations.T), scores)
    return Replicates(
        scores,
        np.ascontiguousarray(deviations[:, kept]),
        column,
        replicates.greater_is_better,
        replicates.units,
        replicates.clustered,
        replicates.seed,
        None if reduction is Reduction.MEAN else replicates.grain,
        replicates.undefined,
    )


def _distinct_rows(rows: NDArray[np.floating], scores: Floats | None = None) -> tuple[Places, Places]:
    """The first of each set of identical rows, and for each row which of these it is."""
    seen: dict[bytes, int] = {}
    kept: list[int] = []
    column = np.empty(len(rows), dtype=np.intp)
    for place, row in enumerate(rows):
        key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        if scores is not None:
            key += scores[place].tobytes()
        if key not in seen:
            seen[key] = len(kept)
            kept.append(place)
        column[place] = seen[key]
    return np.array(kept, dtype=np.intp), column
