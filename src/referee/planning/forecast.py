"""Total hours, cost and end of a campaign as distributions, from the pilot on and while it runs.

The order of dispatch decides what may be believed: evaluations are started at random within their strata, so what was
started is a random sample of the stratum, whatever the lengths. From each stratum comes the product-limit law of its
runtimes; totals and their intervals from `interval`; the end from how long machines still work on the last ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from referee.errors import ConfigurationError
from referee.planning.interval import Interval, Part, total_law
from referee.planning.pilot import with_public_runtimes
from referee.planning.runtime import Law, Runtimes, product_limit
from referee.planning.simulation import list_schedule

Floats = NDArray[np.float64]
_REPLICATES = 1000
# So few that wait are put on the machines one by one.
_FEW = 400


@dataclass(frozen=True, slots=True)
class Public:
    """Recorded public runtimes of a stratum: of those seen, in their order; the means of all and of those that wait."""

    seen: Floats
    mean: float
    waiting_mean: float


@dataclass(frozen=True, slots=True)
class Stratum:
    """Evaluations of one kind that run on one pool of machines.

    Attributes:
        name: such as `gpu` or `cpu`.
        size: evaluations in it, started or not.
        pool: the pool of machines that they share.
        usd_per_hour: price of a machine of that pool.
        seen: those that were started, in any order; a random sample of the stratum.
        overhead_hours: boot, pull and staging of one evaluation, paid and known.
        speed: factor from the hours that were seen to the hours on the pool's machines (1: seen there).
        speed_error: standard error of that factor.
        borrowed: those seen ran elsewhere and are not part of the stratum, of which nothing has started.
        public: recorded public runtimes, which are used while nothing runs and only where they narrow the interval.
    """

    name: str
    size: int
    pool: str
    usd_per_hour: float
    seen: Runtimes
    overhead_hours: float = 0.0
    speed: float = 1.0
    speed_error: float = 0.0
    borrowed: bool = False
    public: Public | None = None

    @property
    def started(self) -> int:
        """Evaluations of the stratum that were started."""
        return 0 if self.borrowed else self.seen.hours.size

    @property
    def waiting(self) -> int:
        """Evaluations of the stratum that were not started yet."""
        return self.size - self.started

    @property
    def ages(self) -> Floats:
        """Hours for which those have run that still run, shape (running,)."""
        return self.seen.hours[~self.seen.ended] if not self.borrowed else np.zeros(0)

    @property
    def hours_behind(self) -> float:
        """Machine hours that those that were started have taken so far."""
        if self.borrowed:
            return 0.0
        return (
            float(np.minimum(self.seen.hours, self.seen.limit_hours).sum()) * self.speed
            + self.overhead_hours * self.started
        )


@dataclass(frozen=True, slots=True)
class Driver:
    """A cause of the forecast's width, its share of the cost's variance, and what would make it smaller."""

    cause: str
    share: float
    remedy: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is believed of a campaign.

    Attributes:
        hours: machine hours in all, done and to come.
        cost: US dollars in all, at the machines' prices.
        end_hours: hours from now until the last evaluation ends.
        ends: shape (replicates,): draws of the end, for probabilities such as that of meeting a deadline.
        costs: shape (replicates,): draws of the cost.
        drivers: what the width comes from, largest first.
        started, ended, size: how far the campaign is.
    """

    hours: Interval
    cost: Interval
    end_hours: Interval
    ends: Floats
    costs: Floats
    drivers: tuple[Driver, ...]
    started: int
    ended: int
    size: int

    def shifted(self, hours: float, usd: float) -> Forecast:
        """The same with known hours and dollars added."""
        hours_then, cost_then = self.hours.shifted(hours), self.cost.shifted(usd)
        return replace(self, hours=hours_then, cost=cost_then, costs=self.costs + usd)

    def probability_of_end_by(self, hours: float) -> float:
        """How probable it is that the last evaluation ends within `hours` from now."""
        return float((self.ends <= hours).mean())

    def probability_of_cost_within(self, usd: float) -> float:
        """How probable it is that the whole costs at most `usd`."""
        return float((self.costs <= usd).mean())


def forecast(
    strata: Sequence[Stratum],
    machines: Mapping[str, int],
    *,
    confidence: float = 0.9,
    seed: int = 0,
    replicates: int = _REPLICATES,
) -> Forecast:
    """What the campaign will cost and when it will end.

    Args:
        strata: what was seen of each stratum.
        machines: how many machines each pool has.
        confidence: at which the intervals are to cover.
        seed: of the draws for the end.
        replicates: draws for the end.

    Raises:
        ConfigurationError: if a stratum has fewer than two ended evaluations, or its pool no machines.
    """
    for stratum in strata:
        if machines.get(stratum.pool, 0) < 1:
            raise ConfigurationError(
                f"The pool {stratum.pool!r} has no machines, but {stratum.name} evaluations wait for it.",
                hint="Give it at least one, or move them to another machine type.",
            )
    rng, left = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    laws = [product_limit(stratum.seen) for stratum in strata]
    hours = total_law([_part(s, law, 1.0) for s, law in zip(strata, laws, strict=True)])
    cost = total_law([_part(s, law, s.usd_per_hour) for s, law in zip(strata, laws, strict=True)])
    ends = np.array([_pool_ends(pool, count, strata, laws, rng, replicates) for pool, count in machines.items()])
    ends = _latest(ends)
    costs = cost.draw(rng, replicates)
    totals = hours.interval(confidence), cost.interval(confidence)
    if not any(s.waiting for s in strata):
        # Nothing is left to be estimated but how long those go on that run, which is simply drawn.
        drawn, costs = _of_running(strata, laws, left, replicates)
        totals = _between(drawn, confidence), _between(costs, confidence)
    return Forecast(
        hours=totals[0],
        cost=totals[1],
        end_hours=_between(ends, confidence),
        ends=ends,
        costs=costs,
        drivers=_drivers(strata, laws),
        started=sum(s.started for s in strata),
        ended=sum(s.started - s.ages.size for s in strata),
        size=sum(s.size for s in strata),
    )


def _between(draws: Floats, confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2
    # Weibull's plotting positions: between them lies exactly the share of further draws that was asked for.
    low, mid, high = (float(x) for x in np.quantile(draws, [tail, 0.5, 1.0 - tail], method="weibull"))
    return Interval(low, mid, high, confidence)


def _of_running(
    strata: Sequence[Stratum], laws: Sequence[Law], rng: np.random.Generator, replicates: int
) -> tuple[Floats, Floats]:
    """Hours and cost of all when everything has started, drawn."""
    hours, usd = np.zeros(replicates), np.zeros(replicates)
    for stratum, law in zip(strata, laws, strict=True):
        remaining = law.draw_remaining(rng, stratum.ages, replicates).sum(axis=1) * stratum.speed
        taken = stratum.hours_behind + remaining
        hours, usd = hours + taken, usd + taken * stratum.usd_per_hour
    return hours, usd


def _part(stratum: Stratum, law: Law, usd_per_hour: float) -> Part:
    speed = stratum.speed
    if stratum.public is not None:
        narrower = _with_public(stratum, law, stratum.public.mean, stratum.size, usd_per_hour)
        if narrower is not None:
            return narrower
    return Part(
        size=stratum.size,
        weight=usd_per_hour,
        mean=law.mean * speed + stratum.overhead_hours,
        mean_variance=law.mean_variance * speed**2 + (law.mean * stratum.speed_error) ** 2,
        variance=law.variance * speed**2,
        third_moment=law.third_moment * speed**3,
        borrowed=stratum.borrowed,
    )


def _with_public(stratum: Stratum, law: Law, mean: float, size: int, weight: float) -> Part | None:
    """The part of `size` evaluations whose public runtimes have this mean; None where these do not narrow it."""
    seen, public = stratum.seen, stratum.public
    if public is None or stratum.borrowed or stratum.speed != 1.0 or not seen.ended.all():
        return None
    part = with_public_runtimes(np.minimum(seen.hours, seen.limit_hours), public.seen, mean, size, weight)
    # Where they do not help, the part is the sample's own, but for rounding.
    if part.variance >= 0.999 * law.variance or part.mean <= 0:
        return None
    return replace(part, mean=part.mean + stratum.overhead_hours)


def _latest(ends: Floats) -> Floats:
    """Draws of the end of the last pool from draws of each pool's end, shape (pools, replicates).

    The latest estimate is too late on average, the more so the more pools end together: noise adds up in a maximum. The
    basic bootstrap (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 5.2) takes the error of
    the maximum from the pools' errors and is a little narrow where pools end together; the maximum of the pools'
    quantiles is too wide there. The weight between them was chosen once, by their coverage over the shapes of
    `benchmarks/plan_coverage.py` under other seeds than those reported; with one pool both are the same.
    """
    medians = np.median(ends, axis=1)
    bootstrap = 2 * medians.max() - (2 * medians[:, None] - ends).max(axis=0)
    return np.asarray(15 / 16 * np.sort(bootstrap) + 1 / 16 * np.sort(ends, axis=1).max(axis=0))


def _pool_ends(
    pool: str, count: int, strata: Sequence[Stratum], laws: Sequence[Law], rng: np.random.Generator, replicates: int
) -> Floats:
    mine = [(s, law) for s, law in zip(strata, laws, strict=True) if s.pool == pool]
    if not mine:
        return np.zeros(replicates)
    if sum(s.waiting for s, _ in mine) < max(3 * count, _FEW):
        running = [law.draw_remaining(rng, s.ages, replicates) * s.speed for s, law in mine if s.ages.size]
        return _ends_of_few(count, mine, running, rng, replicates)
    to_come = np.zeros(replicates)
    for stratum, law in mine:
        total = total_law([_part(stratum, law, 1.0)])
        to_come += np.maximum(total.draw(rng, replicates) - stratum.hours_behind, 0.0)
    # When the queue runs empty every machine is somewhere within an evaluation; all are then busy until they end.
    shares = np.array([s.size * law.mean for s, law in mine])
    of = rng.choice(len(mine), size=(replicates, count), p=shares / shares.sum()) if len(mine) > 1 else 0
    left = np.zeros((replicates, count))
    for place, (stratum, law) in enumerate(mine):
        left = np.where(of == place, law.draw_in_progress(rng, (replicates, count)) * stratum.speed, left)
    empty = np.maximum(to_come - left.sum(axis=1), 0.0) / count
    return np.asarray(empty + left.max(axis=1))


def _ends_of_few(
    count: int, mine: Sequence[tuple[Stratum, Law]], running: list[Floats], rng: np.random.Generator, replicates: int
) -> Floats:
    """Ends when the queue is nearly empty: what runs and what waits, put on the machines one after another."""
    busy = rng.permuted(np.concatenate([*running, np.zeros((replicates, 0))], axis=1), axis=1)
    free = np.zeros((replicates, count))
    taken = min(busy.shape[1], count)
    free[:, :taken] = busy[:, :taken]
    # More have begun than there are machines where a smoke run has ended and the full one waits.
    waits = [busy[:, taken:]]
    waits += [waiting_hours(s, law, rng, replicates) for s, law in mine if s.waiting]
    queue = rng.permuted(np.concatenate(waits, axis=1), axis=1)
    return np.asarray(list_schedule(queue, free).max(axis=1))


def waiting_hours(stratum: Stratum, law: Law, rng: np.random.Generator, replicates: int) -> Floats:
    """Hours of those that wait, shape (replicates, waiting), with as much spread in their sum as is not known of it."""
    drawn = law.draw(rng, (replicates, stratum.waiting)) * stratum.speed + stratum.overhead_hours
    public = stratum.public
    known = _with_public(stratum, law, public.waiting_mean, stratum.waiting, 1.0) if public is not None else None
    part = replace(known or _part(stratum, law, 1.0), size=stratum.waiting, borrowed=True)
    total = total_law([part]).draw(rng, replicates)
    return np.asarray(drawn * (total / np.maximum(drawn.sum(axis=1), 1e-12))[:, None])


def _drivers(strata: Sequence[Stratum], laws: Sequence[Law]) -> tuple[Driver, ...]:
    found = []
    for stratum, law in zip(strata, laws, strict=True):
        variance = _part(stratum, law, _worth(stratum, strata)).total_variance
        ratio = (law.mean * stratum.speed_error) ** 2
        sampling = law.mean_variance * stratum.speed**2
        of_speed = variance * ratio / (ratio + sampling) if ratio else 0.0
        spread = law.variance**0.5 / law.mean if law.mean else 0.0
        why = "a heavy tail" if spread > 1.0 else "few of them have ended"
        found.append((f"{stratum.name}: {why}", variance - of_speed, "start more of them, at random"))
        if of_speed:
            found.append((f"{stratum.name}: speed of {stratum.pool}", of_speed, f"run a few of them on {stratum.pool}"))
    total = sum(variance for _, variance, _ in found)
    drivers = [Driver(cause, variance / total if total else 0.0, remedy) for cause, variance, remedy in found]
    return tuple(sorted(drivers, key=lambda driver: -driver.share))


def half_width_after(strata: Sequence[Stratum], machines: Mapping[str, int], more_hours: float) -> tuple[float, float]:
    """The cost interval's relative half-width (90%) now, and after `more_hours` more of pilot on these machines.

    Where nothing costs anything, it is that of the hours.

    Raises:
        ConfigurationError: if a stratum has fewer than two ended evaluations.
    """
    now, later = [], []
    for stratum in strata:
        law = product_limit(stratum.seen)
        part = _part(stratum, law, _worth(stratum, strata))
        now.append(part)
        sharing = sum(s.size for s in strata if s.pool == stratum.pool)
        more = machines[stratum.pool] * more_hours / max(part.mean, 1e-9) * stratum.size / sharing
        grown = min(part.effective + more, float(stratum.size))
        later.append(replace(part, mean_variance=part.variance / grown))
    laws = total_law(now), total_law(later)
    first, second = (law.interval(0.9).half_width / law.estimate if law.estimate else 0.0 for law in laws)
    return first, second


def _worth(stratum: Stratum, strata: Sequence[Stratum]) -> float:
    """What an hour counts for in comparing strata: its price, or one where nothing has a price."""
    return stratum.usd_per_hour if any(s.usd_per_hour for s in strata) else 1.0
