"""Reading, scoring and resampling a whole board (`make bench-scores`).

4,200 submissions x 10,000 items x 10,000 paired replicates, against what cannot be avoided: scikit-learn's log_loss in
a loop over arrays that are already in memory, and the bare float32 matrix product on the same BLAS and threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", str(os.cpu_count()))

import numpy as np
from sklearn.metrics import log_loss

from referee.challenge import PredictionFormat
from referee.predictions import read_predictions
from referee.scoring.metric import Floats, find_metric
from referee.scoring.resampling import bootstrap_means, draw_counts
from referee.scoring.uncertainty import intervals, rank_ranges

RESULT = Path(__file__).parent / "results" / "scores.json"
MEANS = ("log_loss", "brier", "accuracy")
LIMIT_BYTES = 2**26
_BATCH = 50


def names_of(items: int) -> list[str]:
    """File names as DFDC's private test set has them."""
    return [f"video_{place:05d}.mp4" for place in range(items)]


def labels_of(items: int) -> Floats:
    """A balanced test set."""
    return (np.arange(items) % 2).astype(np.float64)


def predictions_of(submission: int, items: int) -> Floats:
    """P(fake) of a detector that is right more often than not, with all 17 digits."""
    rng = np.random.default_rng([7, submission])
    skill = 0.5 + 2 * (submission % 97) / 97
    logit = (2 * labels_of(items) - 1) * skill + 1.5 * rng.normal(size=items)
    return 1 / (1 + np.exp(-logit))


def write(task: tuple[Path, int, int]) -> None:
    """Write one submission's prediction file."""
    folder, submission, items = task
    values = predictions_of(submission, items).tolist()
    rows = "".join(f"{name},{value!r}\n" for name, value in zip(names_of(items), values, strict=True))
    (folder / f"{submission}.csv").write_text(f"filename,label\n{rows}", encoding="ascii")


def read_and_score(task: tuple[Path, list[int], int]) -> list[list[float]]:
    """Read some files strictly and score them by every mean metric, in float64."""
    folder, submissions, items = task
    names, layout = names_of(items), PredictionFormat()
    board = np.empty((len(submissions), items))
    for row, submission in zip(board, submissions, strict=True):
        row[:] = read_predictions(folder / f"{submission}.csv", names, layout, limit_bytes=LIMIT_BYTES).values
    labels = labels_of(items)
    return [find_metric(name).score(labels, board).tolist() for name in MEANS]


class ScoreSeconds(NamedTuple):
    """Wall and CPU seconds; CPU seconds compare fairly on a machine that others use too."""

    ours: float
    ours_cpu: float
    theirs: float
    theirs_cpu: float


def measure_scores(folder: Path, submissions: int, items: int) -> ScoreSeconds:
    """Strict reading with all mean metrics, a process for each CPU, and scikit-learn's loop; the scores must agree."""
    batches = [
        (folder, list(range(start, min(start + _BATCH, submissions))), items) for start in range(0, submissions, _BATCH)
    ]
    before, start = _children_cpu(), time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(read_and_score, batches))
    ours, ours_cpu = time.perf_counter() - start, _children_cpu() - before
    labels = labels_of(items)
    theirs = theirs_cpu = 0.0
    expected = []
    for submission in range(submissions):
        values = np.clip(predictions_of(submission, items), 1e-15, 1 - 1e-15)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        expected.append(log_loss(labels, values))
        theirs, theirs_cpu = theirs + time.perf_counter() - begin, theirs_cpu + time.process_time() - begin_cpu
    np.testing.assert_allclose([score for batch in found for score in batch[0]], expected, rtol=1e-12)
    return ScoreSeconds(ours, ours_cpu, theirs, theirs_cpu)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_bootstrap(submissions: int, items: int, replicates: int) -> dict[str, float]:
    """Seconds of the paired bootstrap by parts, and of the bare product."""
    labels = labels_of(items)
    metric = find_metric("log_loss")
    contributions = np.empty((submissions, items))
    for place in range(submissions):
        contributions[place] = metric.per_item(labels, predictions_of(place, items)[None])[0]  # type: ignore[attr-defined]  # it is a mean
    left, right = np.ones((replicates, items), np.float32), contributions.astype(np.float32)
    start = time.perf_counter()
    product = left @ right.T
    parts = {"gemm": time.perf_counter() - start}
    del left, right, product
    start = time.perf_counter()
    for _ in draw_counts(items, replicates, 1):
        pass
    parts["weights_alone"] = time.perf_counter() - start
    start = time.perf_counter()
    resampled = bootstrap_means(contributions, greater_is_better=False, replicates=replicates, seed=1)
    parts["weights_and_product"] = time.perf_counter() - start
    start = time.perf_counter()
    intervals(resampled)
    parts["quantiles"] = time.perf_counter() - start
    start = time.perf_counter()
    rank_ranges(resampled)
    parts["ranks"] = time.perf_counter() - start
    return parts


def main() -> None:
    """Measure, write the result, and say it in one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=4200)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--replicates", type=int, default=10_000)
    options = parser.parse_args()
    warnings.simplefilter("error")
    folder = Path(tempfile.mkdtemp(prefix="bench-scores-"))
    try:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, [(folder, s, options.items) for s in range(options.submissions)], chunksize=20))
        scores = measure_scores(folder, options.submissions, options.items)
    finally:
        shutil.rmtree(folder)
    parts = measure_bootstrap(options.submissions, options.items, options.replicates)
    resampling = parts["weights_and_product"] + parts["quantiles"] + parts["ranks"]
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    result = {
        "read_and_score_vs_sklearn": round(scores.ours / scores.theirs, 3),
        "bootstrap_vs_gemm": round(resampling / parts["gemm"], 3),
        "peak_gib": round(peak / 2**20, 2),
        "submissions": options.submissions,
        "items": options.items,
        "replicates": options.replicates,
        "seconds": {name: round(value, 2) for name, value in parts.items()}
        | {f"read_and_score_{name}": round(value, 2) for name, value in scores._asdict().items()},
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"bench-scores: read and score {result['read_and_score_vs_sklearn']} of scikit-learn's loop, "
        f"bootstrap {result['bootstrap_vs_gemm']} of the bare product, peak {result['peak_gib']} GiB"
    )


if __name__ == "__main__":
    main()
