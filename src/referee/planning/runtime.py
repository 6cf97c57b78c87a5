"""Runtimes as they are seen while a campaign runs: some have ended, some still go on, none exceeds the limit.

A runtime counts as min(T, limit): a killed attempt costs exactly the limit, so the limit is a value here and not a
censoring. What is censored is an attempt that still runs. With random order of dispatch its age says nothing about its
length, so the product-limit estimate is unbiased, while the mean of those that ended is too low.

Sources: Kaplan and Meier, J. Amer. Statist. Assoc. 53 (1958) 457; Greenwood (1926) as given there for the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from referee.errors import ConfigurationError

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Runtimes:
    """Hours of the started evaluations of one stratum.

    Attributes:
        hours: shape (n,): runtime of those that ended, age of those that run.
        ended: shape (n,): which of them ended (also by failing, or by being killed at the limit).
        limit_hours: no runtime is longer.
    """

    hours: Floats
    ended: Booleans
    limit_hours: float

    def __post_init__(self) -> None:
        if self.hours.shape != self.ended.shape or self.hours.ndim != 1:
            raise ValueError("hours and ended must be one-dimensional and of the same length")
        if self.hours.size and not (self.hours >= 0).all():
            raise ValueError("a runtime is a number of hours, zero or more")


@dataclass(frozen=True, slots=True)
class Law:
    """A discrete law of runtimes: the product-limit estimate, with the mean of its fitted tail where it ends too early.

    Attributes:
        hours: shape (k,), increasing: where the law has mass.
        mass: shape (k,), sums to 1.
        mean_variance: estimated variance of the law's mean as an estimate of the true mean.
        started: how many evaluations it rests on.
    """

    hours: Floats
    mass: Floats
    mean_variance: float
    started: int

    @property
    def mean(self) -> float:
        """Expected hours of an evaluation."""
        return float(self.mass @ self.hours)

    @property
    def variance(self) -> float:
        """Variance of the hours of one evaluation, unbiased as that of a sample."""
        return float(self.mass @ (self.hours - self.mean) ** 2) * self.started / max(self.started - 1, 1)

    @property
    def third_moment(self) -> float:
        """Third central moment of the hours of one evaluation."""
        return float(self.mass @ (self.hours - self.mean) ** 3)

    @property
    def effective(self) -> float:
        """How many ended evaluations would tell the mean as well."""
        return max(self.variance / self.mean_variance, 1.0) if self.mean_variance > 0 else float(self.started)

    def draw(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> Floats:
        """Runtimes drawn from the law."""
        return self._at(rng.random(shape))

    def draw_remaining(self, rng: np.random.Generator, ages: Floats, replicates: int) -> Floats:
        """Hours that evaluations of these ages still run, shape (replicates, len(ages))."""
        below = np.searchsorted(self.hours, ages, side="right")
        before = np.concatenate([[0.0], np.cumsum(self.mass)])[below]
        drawn = self._at(before + (1.0 - before) * rng.random((replicates, ages.size)))
        return np.maximum(drawn - ages, 0.0)

    def draw_in_progress(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> Floats:
        """Hours that are left of what a busy machine works on at a moment far from the start.

        A long evaluation is met more often, in proportion to its length, and at a uniform point of it (renewal theory).
        """
        lengths = np.cumsum(self.mass * self.hours)
        chosen = np.searchsorted(lengths, rng.random(shape) * lengths[-1])
        return np.asarray(self.hours[np.minimum(chosen, self.hours.size - 1)] * rng.random(shape))

    def _at(self, level: Floats) -> Floats:
        place = np.searchsorted(np.cumsum(self.mass), level)
        return np.asarray(self.hours[np.minimum(place, self.hours.size - 1)])


def product_limit(runtimes: Runtimes) -> Law:
    """The law of min(T, limit) from what has ended and what still runs.

    Where the oldest running evaluation is older than every ended one and younger than the limit, the data say nothing
    of the tail; it is then taken from a lognormal law fitted to all of them.

    Raises:
        ConfigurationError: if fewer than two evaluations have ended.
    """
    if int(runtimes.ended.sum()) < 2:
        raise ConfigurationError(
            "A forecast needs at least two ended evaluations of each kind.", hint="Run a larger pilot, or wait."
        )
    hours = np.minimum(runtimes.hours, runtimes.limit_hours)
    # At the limit a runtime is known, whether or not the kill has been recorded yet.
    ended = runtimes.ended | (hours >= runtimes.limit_hours)
    times, place = np.unique(hours, return_inverse=True)
    deaths = np.bincount(place, weights=ended, minlength=times.size).astype(np.float64)
    left_before = np.concatenate([[0.0], np.cumsum(np.bincount(place, minlength=times.size))[:-1]])
    at_risk = (hours.size - left_before).astype(np.float64)
    survival = np.cumprod(1.0 - deaths / at_risk)
    mass = -np.diff(survival, prepend=1.0)
    left, unseen = float(survival[-1]), 0.0
    if left > 1e-12:
        tail = _fitted_tail(hours, ended, float(times[-1]), runtimes.limit_hours)
        times, mass = np.append(times, tail), np.append(mass, np.full(tail.size, left / tail.size))
        deaths, at_risk = np.append(deaths, np.zeros(tail.size)), np.append(at_risk, np.ones(tail.size))
        # What is not seen is no better known than the spread of the fitted tail.
        unseen = left**2 * float(tail.var())
    variance = unseen + _greenwood(times, mass, deaths, at_risk) * hours.size / max(hours.size - 1, 1)
    kept = mass > 0
    return Law(times[kept], mass[kept] / mass[kept].sum(), variance, hours.size)


def _greenwood(times: Floats, mass: Floats, deaths: Floats, at_risk: Floats) -> float:
    survival = 1.0 - np.cumsum(mass)
    # Area under the survival curve to the right of each time.
    area = np.concatenate([np.cumsum((survival[:-1] * np.diff(times))[::-1])[::-1], [0.0]])
    informative = (deaths > 0) & (at_risk > deaths)
    risk, died = at_risk[informative], deaths[informative]
    return float(np.sum(area[informative] ** 2 * died / (risk * (risk - died))))


def _fitted_tail(hours: Floats, ended: Booleans, beyond: float, limit_hours: float, points: int = 20) -> Floats:
    """Hours of equal mass that stand for the law beyond `beyond`, from the fitted lognormal, cut at the limit."""
    mu, sigma = fit_lognormal(hours, ended)
    below = special.ndtr((np.log(max(beyond, 1e-9)) - mu) / sigma)
    levels = below + (1.0 - below) * (np.arange(points) + 0.5) / points
    tail = np.exp(mu + sigma * special.ndtri(np.minimum(levels, 1 - 1e-12)))
    return np.asarray(np.clip(tail, beyond, limit_hours))


def fit_lognormal(hours: Floats, ended: Booleans) -> tuple[float, float]:
    """Mean and standard deviation of log hours by maximum likelihood, where those not `ended` are longer than seen."""
    logs = np.log(np.maximum(hours, 1e-9))

    def loss(parameters: Floats) -> float:
        mu, sigma = float(parameters[0]), float(np.exp(parameters[1]))
        z = (logs - mu) / sigma
        density = -0.5 * z[ended] ** 2 - np.log(sigma)
        return -float(density.sum() + special.log_ndtr(-z[~ended]).sum())

    start = np.array([logs.mean(), np.log(max(float(logs.std()), 0.05))])
    best = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8})
    return float(best.x[0]), float(np.exp(best.x[1]))
