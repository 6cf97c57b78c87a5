"""Groups of evaluations as the forecast's strata: who ran and will run on which pool of machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from referee.challenge import SPOT
from referee.planning.catalogue import Catalogue
from referee.planning.forecast import Stratum
from referee.planning.groups import LEAST_FOR_SPEED, Group, hours_on, ratio
from referee.planning.runtime import Runtimes


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
    for group in groups:
        waiting = assignment.get(group.name, {})
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
    )
