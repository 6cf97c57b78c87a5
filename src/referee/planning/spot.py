"""What spot capacity costs in expectation, when it may be taken away at a rate that is itself uncertain.

With rate r and tau = T + o (run, and boot + pull + load), the machine time until an evaluation gets through is
(e^(r tau) - 1) / r; its expectation over a long-tailed T or an uncertain r need not exist. Hence at most k tries on
spot, then on demand: with q = 1 - e^(-r tau) the cost is c_s (e^(r tau) - 1) (1 - q^k) / r + q^k c_od tau.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
# As many as the controller makes (`campaign.markets`): the last attempt that a host may fail is on demand.
MOST_TRIES = 2


@dataclass(frozen=True, slots=True)
class LossRate:
    """What is believed of the rate at which a machine is taken away: a gamma law, learned while running.

    Attributes:
        losses: seen, with the prior's.
        hours: of up-time in which they were seen, with the prior's.
    """

    losses: float
    hours: float

    @classmethod
    def believed(cls, per_hour: float, spread: float = 2.0) -> LossRate:
        """A prior with this mean, and `spread` as its relative standard deviation (rates differ by orders)."""
        return cls(1 / spread**2, 1 / spread**2 / per_hour)

    @property
    def mean(self) -> float:
        """Expected losses for an hour of up-time."""
        return self.losses / self.hours

    def after(self, losses: int, hours: float) -> LossRate:
        """With what was seen since: `losses` in `hours` of up-time."""
        return LossRate(self.losses + losses, self.hours + hours)

    def points(self, number: int = 40) -> Floats:
        """Rates of equal probability that stand for the law, shape (number,)."""
        levels = (np.arange(number) + 0.5) / number
        return np.asarray(special.gammaincinv(self.losses, levels) / self.hours)


def time_until_through(rate: Floats | float, tau: Floats | float) -> Floats:
    """Expected machine hours until `tau` hours pass without a loss, with an unbounded number of tries."""
    hours = np.asarray(tau, dtype=np.float64)
    product = np.asarray(rate, dtype=np.float64) * hours
    return np.asarray(np.where(product > 0, np.expm1(product) / np.maximum(product, 1e-300), 1.0) * hours)


def usd_with_fallback(
    rate: Floats | float, tau: Floats | float, tries: int, spot_usd: float, on_demand_usd: float
) -> Floats:
    """Expected cost of `tau` hours with at most `tries` on spot, then on demand. Prices for an hour."""
    hours = np.asarray(tau, dtype=np.float64)
    lost = -np.expm1(-np.asarray(rate) * hours)
    on_spot = spot_usd * time_until_through(rate, hours) * (1 - lost**tries)
    return np.asarray(on_spot + lost**tries * on_demand_usd * hours)


@dataclass(frozen=True, slots=True)
class SpotChoice:
    """How one evaluation is best bought: in how many shards, with how many tries on spot (0: on demand)."""

    usd: float
    tries: int
    shards: int


def best_purchase(
    runtimes: Floats,
    overhead_hours: float,
    rates: Floats | float,
    spot_usd: float,
    on_demand_usd: float,
    *,
    shards: tuple[int, ...] = (1,),
) -> SpotChoice:
    """The cheapest number of shards and tries for evaluations whose runtimes follow a law, at an uncertain rate.

    Args:
        runtimes: shape (n,): equally probable runtimes in hours.
        overhead_hours: boot, pull and load; each shard pays it.
        rates: equally probable loss rates for an hour.
        spot_usd, on_demand_usd: prices for an hour.
        shards: the numbers of shards that are possible.

    Returns:
        The best choice; never dearer than on demand in one piece, which is one of the choices.
    """
    rate = np.atleast_1d(np.asarray(rates, dtype=np.float64))[:, None]
    best = SpotChoice(float((runtimes + overhead_hours).mean()) * on_demand_usd, 0, 1)
    for parts in shards:
        tau = runtimes[None, :] / parts + overhead_hours
        for tries in range(1, MOST_TRIES + 1):
            usd = parts * float(usd_with_fallback(rate, tau, tries, spot_usd, on_demand_usd).mean())
            if usd < best.usd:
                best = SpotChoice(usd, tries, parts)
    return best
