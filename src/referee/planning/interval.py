"""Intervals for totals of a finite set from a skewed sample, stated at the level at which they cover.

Runtimes are skewed, so a plain t-interval misses more often above than below. The cubic transformation of Hall (J. R.
Statist. Soc. B 54 (1992) 221) removes that, here with the cumulants of a sample without replacement from strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the interval that holds the truth with probability `confidence`."""

    low: float
    mid: float
    high: float
    confidence: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width, in the unit of the estimate."""
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> Interval:
        """The same in another unit."""
        return Interval(self.low * factor, self.mid * factor, self.high * factor, self.confidence)

    def shifted(self, amount: float) -> Interval:
        """The same with a known amount added."""
        return Interval(self.low + amount, self.mid + amount, self.high + amount, self.confidence)


@dataclass(frozen=True, slots=True)
class Part:
    """What one stratum adds to a total: `size` units of which the mean is estimated.

    Attributes:
        size: units in the stratum.
        weight: what one hour of them adds to the total (1 for hours, dollars for an hour, ...).
        mean: estimated mean of a unit.
        mean_variance: its variance, were the stratum infinite.
        variance: of one unit.
        third_moment: third central moment of one unit.
        borrowed: the mean was learned on other units, so none of these has been seen.
    """

    size: int
    weight: float
    mean: float
    mean_variance: float
    variance: float
    third_moment: float
    borrowed: bool = False

    @property
    def effective(self) -> float:
        """Ended units that would tell the mean as well."""
        if self.mean_variance <= 0 or self.variance <= 0:
            return float(self.size)
        units = max(self.variance / self.mean_variance, 1.0)
        return units if self.borrowed else min(units, float(self.size))

    @property
    def share_seen(self) -> float:
        """Which share of the stratum is known, as far as it tells the total."""
        return 0.0 if self.borrowed else min(self.effective / self.size, 1.0)

    @property
    def total(self) -> float:
        """Estimated total of the stratum."""
        return self.weight * self.size * self.mean

    @property
    def total_variance(self) -> float:
        """Variance of the error of `total`: what is still unseen of a finite stratum."""
        of_mean = (self.weight * self.size) ** 2 * self.mean_variance
        return of_mean * (1.0 - self.share_seen) + self.borrowed * self.weight**2 * self.size * self.variance


@dataclass(frozen=True, slots=True)
class TotalLaw:
    """What is believed of a total: quantiles from which intervals and draws are taken.

    Attributes:
        estimate: the total's estimate.
        standard_error: of the estimate's error.
        freedom: degrees of freedom of the standard error (Satterthwaite).
        curve, shift: the second-order and the constant term of the studentised error's skewness.
    """

    estimate: float
    standard_error: float
    freedom: float
    curve: float
    shift: float

    def quantile(self, level: Floats | float) -> Floats:
        """The total that is exceeded with probability 1 - `level`."""
        student = special.stdtrit(self.freedom, 1.0 - np.asarray(level, dtype=np.float64))
        # A sample too small for a third moment gets a bounded correction.
        curve = float(np.clip(self.curve, -0.3, 0.3))
        if abs(curve) < 1e-9:
            error = student - self.shift
        else:
            error = (np.cbrt(1.0 + 3.0 * curve * (student - self.shift)) - 1.0) / curve
        total = self.estimate - self.standard_error * error
        # A total of hours is positive: far below the estimate, the law runs out towards zero instead of through it.
        half = max(self.estimate / 2, 1e-300)
        return np.asarray(np.where(total < half, half * np.exp(np.minimum(total / half - 1.0, 0.0)), total))

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval with equal tails."""
        tail = (1.0 - confidence) / 2
        low, high = (float(x) for x in self.quantile(np.array([tail, 1.0 - tail])))
        return Interval(low, self.estimate, high, confidence)

    def draw(self, rng: np.random.Generator, replicates: int) -> Floats:
        """Totals as they are believed possible, shape (replicates,)."""
        return self.quantile(rng.random(replicates))


def total_law(parts: Sequence[Part]) -> TotalLaw:
    """The law of the sum over strata, each a sample without replacement of its stratum."""
    variance = sum(part.total_variance for part in parts)
    estimate = sum(part.total for part in parts)
    if variance <= 0:
        return TotalLaw(estimate, 0.0, 1e6, 0.0, 0.0)
    third = with_variance = freedom = 0.0
    for part in parts:
        n, seen = part.effective, part.share_seen
        scale = (part.weight * part.size) ** 3 * part.third_moment / n**2
        third += scale * (1 - seen) * (1 - 2 * seen)
        with_variance += scale * (1 - seen) ** 2
        freedom += part.total_variance**2 / max(n - 1.0, 1.0)
    # First and third cumulants of the studentised error; the error and its estimated variance go together.
    first = -0.5 * with_variance / variance**1.5
    cumulant = (third - 3.0 * with_variance) / variance**1.5
    curve = -cumulant / 6
    return TotalLaw(estimate, variance**0.5, variance**2 / freedom, curve, -first - curve)
