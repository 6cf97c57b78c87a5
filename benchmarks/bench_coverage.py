"""How often intervals and rank sets hold the truth, on simulated boards whose truth is known (`make bench-coverage`).

Aims: score intervals cover 87-93% at a nominal 90%, rank sets at least 90%. Truth is the expected contribution of
an item, from which each board draws its items anew.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one process for each CPU instead

import numpy as np
from scipy.stats import rankdata

from referee.scoring.comparisons import board_of_means, rank_sets, tie_groups
from referee.scoring.metric import Floats
from referee.scoring.resampling import bootstrap_means
from referee.scoring.uncertainty import intervals, rank_ranges

RESULT = Path(__file__).parent / "results" / "coverage.json"
LEVEL = 0.9


class Drawn(NamedTuple):
    """One board: contributions (entries, items), true expected contributions (entries,), clusters of the items."""

    rows: Floats
    truth: Floats
    clusters: list[str] | None


def all_equal(rng: np.random.Generator) -> Drawn:
    """Twenty entries of the same worth that err on the same items: every rank but 1 is noise."""
    items = 500
    common = rng.gamma(0.6, 0.8, items)
    return Drawn(common + rng.normal(0, 0.3, (20, items)), np.full(20, 0.48), None)


def dfdc_like(rng: np.random.Generator) -> Drawn:
    """Forty entries spread like DFDC's top, with skewed log losses: hard items cost several nats to all alike."""
    items = 1000
    truth = 0.42 + 0.08 * (np.arange(40) / 39) ** 0.7
    hard = rng.gamma(0.35, 1.0, items) / 0.35  # mean 1, skewness 3.4
    own = rng.gamma(0.5, 1.0, (40, items)) / 0.5
    return Drawn(truth[:, None] * (0.75 * hard + 0.25 * own), truth, None)


def clustered(rng: np.random.Generator) -> Drawn:
    """Twenty entries over 200 sources of 5 videos each, intra-class correlation 0.3."""
    sources, each = 200, 5
    truth = 0.45 + 0.1 * np.arange(20) / 19
    source = np.repeat(rng.normal(0, np.sqrt(0.3), (20, sources)) + rng.normal(0, 0.4, sources), each, axis=1)
    rows = truth[:, None] + 0.5 * source + 0.5 * rng.normal(0, np.sqrt(0.7), (20, sources * each))
    return Drawn(rows, truth, [f"{place // each}" for place in range(sources * each)])


def clustered_as_items(rng: np.random.Generator) -> Drawn:
    """The clustered boards with their sources unknown; reported to show what that costs, without an aim."""
    return clustered(rng)._replace(clusters=None)


SHAPES: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "all_equal": all_equal,
    "dfdc_like": dfdc_like,
    "clustered": clustered,
    "clustered_as_items": clustered_as_items,
}


def one_board(shape: str, seed: int, replicates: int) -> tuple[float, float, float, float, bool]:
    """Shares of entries whose interval, rank set and rank range hold the truth; mean size of the sets; group claims."""
    rows, truth, clusters = SHAPES[shape](np.random.default_rng([seed, *shape.encode()]))
    resampled = bootstrap_means(rows, greater_is_better=False, clusters=clusters, replicates=replicates, seed=seed)
    found = intervals(resampled, LEVEL)
    board = board_of_means(rows, greater_is_better=False, clusters=clusters)
    sets, ranges, groups = rank_sets(board, LEVEL), rank_ranges(resampled, LEVEL), tie_groups(board, 0.05)
    ranks = rankdata(truth, method="min")
    claims = True
    for group in range(1, int(groups.max()) + 1):
        members = np.flatnonzero(groups == group)
        anchor = members[np.argmin(board.scores[members])]
        claims &= bool((truth[groups > group] > truth[anchor]).all())
    return (
        float(((found.low <= truth) & (truth <= found.high)).mean()),
        float(((sets.low <= ranks) & (ranks <= sets.high)).mean()),
        float(((ranges.low <= ranks) & (ranks <= ranges.high)).mean()),
        float((sets.high - sets.low + 1).mean()),
        claims,
    )


def _task(task: tuple[str, int, int]) -> tuple[str, tuple[float, float, float, float, bool]]:
    return task[0], one_board(*task)


def main() -> None:
    """Simulate, write the result, and say it in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=2000, help="boards of each shape")
    parser.add_argument("--replicates", type=int, default=1000)
    options = parser.parse_args()
    start = time.monotonic()
    tasks = [(shape, seed, options.replicates) for shape in SHAPES for seed in range(options.boards)]
    found: dict[str, list[tuple[float, float, float, float, bool]]] = {shape: [] for shape in SHAPES}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for shape, figures in pool.map(_task, tasks, chunksize=20):
            found[shape].append(figures)
    result = {
        "boards_of_each_shape": options.boards,
        "replicates": options.replicates,
        "nominal": LEVEL,
        "shapes": {
            shape: dict(
                zip(
                    (
                        "score_intervals",
                        "rank_sets",
                        "rank_ranges_descriptive",
                        "mean_size_of_rank_sets",
                        "group_claims",
                    ),
                    (round(float(value), 4) for value in np.array(rows, dtype=float).mean(axis=0)),
                    strict=True,
                )
            )
            for shape, rows in found.items()
        },
        "seconds": round(time.monotonic() - start, 1),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    line = "; ".join(
        f"{shape}: intervals {row['score_intervals']:.1%}, rank sets {row['rank_sets']:.1%}"
        for shape, row in result["shapes"].items()  # type: ignore[attr-defined]  # a dict, made above
    )
    print(f"bench-coverage: {line}")


if __name__ == "__main__":
    main()
