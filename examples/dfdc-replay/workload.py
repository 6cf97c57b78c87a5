"""The pinned workload of the replay: what 4,200 submissions of 2,300 teams needed.

Nothing here may be changed to reach a result: sizes, spreads, totals, limit and seed are written down in one place, and
`tests/unit/test_planning_replay.py` pins the digest of the drawn arrays.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEED = 2020
TEAMS = 2_300
T4_HOURS, V100_HOURS, CPU_HOURS = 25_000.0, 800.0, 5_000.0
LIMIT_V100 = 9.0
LIMIT_OTHER = 2.1 * LIMIT_V100
SIGMA = 0.8
FITS_T4, NEEDS_MORE, CPU_SERIAL, CPU_SCALES = "fits-t4", "needs-more-memory", "cpu-4", "cpu-16"
SIZES = {FITS_T4: 3_360, NEEDS_MORE: 168, CPU_SERIAL: 336, CPU_SCALES: 336}
FAIL, DUPLICATES = 0.06, 0.03


@dataclass(frozen=True)
class Group:
    """Submissions of one group, shapes (n,).

    Attributes:
        hours: useful hours of a run on the article's machine, to its end, its failure or the limit.
        speed: how many times faster a V100 is than a T4, for this submission.
        original: place of the submission whose image this one repeats; its own place where it repeats none.
        restarts: hours on the article's machine that were spent on attempts that were lost.
    """

    hours: Floats
    speed: Floats
    original: NDArray[np.int64]
    restarts: Floats

    @property
    def distinct(self) -> NDArray[np.bool_]:
        """Those that must be run if duplicates by image digest are run once."""
        return np.asarray(self.original == np.arange(self.original.size))


def workload(waste: float = 0.0) -> dict[str, Group]:
    """The workload, where a share `waste` of all hours was spent on restarts."""
    return {
        FITS_T4: _group(FITS_T4, 0, T4_HOURS, LIMIT_OTHER, waste),
        NEEDS_MORE: _group(NEEDS_MORE, 1, V100_HOURS, LIMIT_V100, waste),
        # Both CPU groups have the same law, and share their hours as they share their number.
        CPU_SERIAL: _group(CPU_SERIAL, 2, CPU_HOURS / 2, LIMIT_OTHER, waste),
        CPU_SCALES: _group(CPU_SCALES, 3, CPU_HOURS / 2, LIMIT_OTHER, waste),
    }


def _group(name: str, number: int, total: float, limit: float, waste: float) -> Group:
    rng = np.random.default_rng([SEED, number])
    size = SIZES[name]
    lengths = rng.lognormal(0.0, SIGMA, size)
    speed = rng.lognormal(np.log(2.1), 0.25, size)
    share = np.where(rng.random(size) < FAIL, rng.random(size), 1.0)
    original = np.arange(size)
    repeats = rng.choice(size, round(DUPLICATES * size), replace=False)
    others = np.setdiff1d(np.arange(size), repeats)
    original[repeats] = rng.choice(others, repeats.size)
    lost = rng.random(size)
    lengths, share = lengths[original], share[original]
    low, high = 1e-3, 1e3
    for _ in range(80):
        middle = (low * high) ** 0.5
        spent = (np.minimum(lengths * middle, limit) * share).sum()
        low, high = (middle, high) if spent < total * (1 - waste) else (low, middle)
    hours = np.minimum(lengths * low, limit) * share
    # Lost attempts are spread at random over the submissions, and add up to the share that was wasted.
    restarts = hours * np.where(lost < 0.35, lost / 0.35, 0.0)
    return Group(hours, speed, original, restarts * (total * waste / restarts.sum()))


def digest() -> str:
    """SHA-256 of the hours to a thousandth, the originals and the speeds, of all groups, at no waste."""
    hashed = hashlib.sha256()
    for group in workload().values():
        for values in (group.hours * 1000, group.speed * 1000, group.original):
            hashed.update(np.round(values).astype("<i8").tobytes())
    return hashed.hexdigest()
