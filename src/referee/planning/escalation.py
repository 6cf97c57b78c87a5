"""What it adds that some of those that wait will outgrow the machine type that the plan has for them.

Nobody knows beforehand who runs out of GPU memory; the pilot knows how many did, and what they cost where they ended.
The strata take everybody to end on the planned type, so what these cost more is added, with its own uncertainty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from referee.planning.catalogue import Catalogue
from referee.planning.forecast import Driver, Forecast
from referee.planning.groups import LEAST_FOR_SPEED, Group, ratio
from referee.planning.interval import Interval


@dataclass(frozen=True, slots=True)
class Extra:
    """US dollars that escalations are expected to add, and the standard error of that."""

    usd: float
    error: float


def escalations(groups: Sequence[Group], catalogue: Catalogue, waiting: Mapping[str, int]) -> Extra:
    """What they add for those that wait.

    Args:
        groups: what was seen.
        catalogue: for prices and speeds.
        waiting: by group, how many wait.
    """
    usd = variance = 0.0
    for group in groups:
        if not group.moved or group.borrowed or not waiting.get(group.name, 0):
            continue
        more, count = _more_for_each(group, catalogue), waiting[group.name]
        started, moved = group.started, len(group.moved)
        if more.size:
            share, mean = moved / started, float(more.mean())
            usd += count * share * mean
            spread = float(more.var(ddof=1)) if more.size > 1 else mean**2
            variance += count**2 * (share * (1 - share) / started * mean**2 + share**2 * spread / more.size)
    return Extra(usd, variance**0.5)


def _more_for_each(group: Group, catalogue: Catalogue) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """For each that moved and has ended: what it cost, less what the strata count for it."""
    mostly, more = group.mostly_on, list[float]()
    prices = {name: float(offer.price) for name, offer in catalogue.offers.items()}
    stayed = group.seen[mostly]
    usual = float(stayed.hours[stayed.ended].mean()) * prices.get(mostly, 0.0)
    for here, runtimes in group.seen.items():
        if here == mostly or here not in prices:
            continue
        apart = int(runtimes.ended.sum()) >= LEAST_FOR_SPEED
        factors = ratio(group, catalogue, here, mostly).each
        for name, hours, over, factor in zip(group.who[here], runtimes.hours, runtimes.ended, factors, strict=True):
            if name in group.moved and over:
                counted = usual if apart else float(hours * factor) * prices.get(mostly, 0.0)
                more.append(float(hours) * prices[here] - counted)
    return np.array(more)


def with_escalations(seen: Forecast, extra: Extra) -> Forecast:
    """The forecast with what escalations add to its cost; errors of both are taken as independent."""
    if not extra.usd:
        return seen
    error = seen.cost.half_width / float(special.ndtri((1 + seen.cost.confidence) / 2))
    wider = float(np.hypot(1.0, extra.error / error)) if error else 1.0
    middle, cost = seen.cost.mid, seen.cost

    def moved(usd: float) -> float:
        return middle + extra.usd + (usd - middle) * wider

    share = 1 - 1 / wider**2
    drivers = [replace(each, share=each.share / wider**2) for each in seen.drivers]
    if share > 0:
        drivers.append(Driver("who outgrows its machine type", share, "start more of them, or smoke all first"))
    return replace(
        seen,
        cost=Interval(moved(cost.low), moved(cost.mid), moved(cost.high), cost.confidence),
        costs=middle + extra.usd + (seen.costs - middle) * wider,
        drivers=tuple(sorted(drivers, key=lambda each: -each.share)),
    )
