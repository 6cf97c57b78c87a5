"""Groups of evaluations as the forecast's strata: who ran and will run on which pool of machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from referee.challenge import SPOT
from referee.planning.catalogue import Catalogue
from referee.planning.forecast import Public, Stratum
from referee.planning.groups import LEAST_FOR_SPEED, Group, hours_on, ratio
from referee.planning.runtime import Runtimes, product_limit

# Fewer ended ones have no law.
_LEAST_FOR_LAW = 2
_DRAWS = 200


def strata_of(
    groups: Sequence[Group], catalogue: Catalogue, assignment: Mapping[str, Mapping[str, int]], overhead_hours: float
) -> list[Stratum]:
    """The groups as strata: for each type on which enough was seen those that ran and will run there, and the others.

    Args:
        groups: what was seen.
        catalogue: for prices and speeds.
        assignment: for each group, how many of those that wait go to each option.
        overhead_hours: pull and staging of an evaluation.
    """
    strata = []
    own = {group.name for group in groups}
    for group in groups:
        if group.lender in own:
            continue
        # Whoever is known by another group's runtimes is as uncertain as these: one stratum, not two.
        waiting = Counter(assignment.get(group.name, {}))
        for other in groups:
            if other.lender == group.name:
                waiting.update(assignment.get(other.name, {}))
        if not group.started and not waiting:
            continue  # it fits nowhere, and the plan says so
        seen = {} if group.borrowed else _seen_apart(group, catalogue)
        for pool in {**dict.fromkeys(seen, 0), **waiting}:
            size = waiting.get(pool, 0) + (seen[pool].hours.size if pool in seen else 0)
            if size:
                strata.append(_stratum(group, catalogue, pool, size, overhead_hours, seen.get(pool)))
    return strata


def _seen_apart(group: Group, catalogue: Catalogue) -> dict[str, Runtimes]:
    """What was seen on each type on which enough has ended; the few on others with those where most ran."""
    mostly = group.mostly_on
    apart = {
        name: runtimes
        for name, runtimes in group.seen.items()
        if name != mostly and int(runtimes.ended.sum()) >= LEAST_FOR_SPEED
    }
    rest = replace(group, seen={name: each for name, each in group.seen.items() if name not in apart})
    return {mostly: hours_on(rest, catalogue, mostly), **apart}


def elsewhere(groups: Sequence[Group], catalogue: Catalogue) -> tuple[float, float]:
    """Machine hours and dollars by which the strata are off for the few that ran where most did not.

    The strata take these as if they had run where most did; what they take, and what it costs, is that of their own
    machine type.
    """
    hours = usd = 0.0
    rng = np.random.default_rng(0)
    for group in groups:
        if group.borrowed or len(group.seen) < 2:
            continue
        mostly, apart = group.mostly_on, _seen_apart(group, catalogue)
        law = product_limit(apart[mostly]) if int(apart[mostly].ended.sum()) >= _LEAST_FOR_LAW else None
        for here, runtimes in group.seen.items():
            if here in apart or not {here, mostly} <= {*catalogue.offers}:
                continue
            longer = ratio(group, catalogue, here, mostly).each
            taken = np.minimum(runtimes.hours, runtimes.limit_hours)
            if law is not None and (running := ~runtimes.ended).any():
                left = law.draw_remaining(rng, (taken * longer)[running], _DRAWS).mean(axis=0)
                taken = taken.copy()
                taken[running] += left / longer[running]
            prices = (float(catalogue.offers[name].price) for name in (here, mostly))
            own, counted = (
                price * float(each.sum()) for price, each in zip(prices, (taken, taken * longer), strict=True)
            )
            hours, usd = hours + float((taken - taken * longer).sum()), usd + own - counted
    return hours, usd


def _stratum(
    group: Group, catalogue: Catalogue, pool: str, size: int, overhead_hours: float, seen: Runtimes | None
) -> Stratum:
    name, mostly = pool.removesuffix(SPOT), group.mostly_on
    offer = catalogue.offer(name)
    of_speed = ratio(group, catalogue, mostly, name)
    known = seen is not None or name == mostly
    return Stratum(
        group.name if pool == mostly else f"{group.name} on {pool}",
        size,
        pool,
        float(offer.spot_price or 0) if pool.endswith(SPOT) else float(offer.price),
        seen if seen is not None else hours_on(group, catalogue, name),
        overhead_hours + offer.boot_of_each_hours,
        1.0,
        # The hours are those on this type already; what is not known is the factor between them.
        0.0 if known else of_speed.error / of_speed.factor,
        borrowed=seen is None,
        public=_public(group, pool, size),
    )


def _public(group: Group, pool: str, size: int) -> Public | None:
    """Public runtimes, where all are recorded and all have run, or will run, on one machine type."""
    names = group.who.get(pool, ())
    whole = len(group.seen) == 1 and pool in group.seen and size == group.size == len(group.public)
    if not whole or len(names) != group.seen[pool].hours.size or not set(names) <= set(group.public):
        return None
    waiting = [hours for name, hours in group.public.items() if name not in set(names)]
    everybody = float(np.mean(list(group.public.values())))
    seen = np.array([group.public[name] for name in names])
    return Public(seen, everybody, float(np.mean(waiting)) if waiting else everybody)
