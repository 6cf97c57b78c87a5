"""What the order of dispatch lets one believe of those that wait: that they are like all that started, or like some.

Started at random, what has started stands for the rest, until runtimes drift: then those since do. In any other order
only the pilot, which was drawn at random, does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from referee.planning.drift import Drift, detect_drift
from referee.planning.forecast import Stratum
from referee.planning.groups import Group
from referee.planning.runtime import Runtimes, product_limit

# Fewer than these say nothing of a change.
_LEAST_BEFORE, _LEAST_AFTER = 20, 10
_FALSE_ALARMS = 0.01


@dataclass(frozen=True, slots=True)
class Drifted:
    """A change of runtimes, in which stratum, and what was seen since."""

    drift: Drift
    stratum: str
    since: Runtimes


def drift_of(seen: Sequence[Group]) -> Drifted | None:
    """The first change that is found among the groups, on each machine type by itself."""
    alike = [(group, name, runtimes) for group in seen if not group.borrowed for name, runtimes in group.seen.items()]
    for group, name, runtimes in alike:
        found = _change(runtimes, max(_LEAST_BEFORE, group.size // 10 // len(group.seen)), group.size, len(alike))
        if found is not None:
            since = Runtimes(runtimes.hours[found.since :], runtimes.ended[found.since :], runtimes.limit_hours)
            return Drifted(found, group.name if name == group.mostly_on else f"{group.name} on {name}", since)
    return None


def _change(runtimes: Runtimes, first: int, size: int, looks: int) -> Drift | None:
    """Whether those after the `first` to start differ from these; `looks` are made, so each may alarm less often."""
    if runtimes.hours.size < first + _LEAST_AFTER:
        return None
    before, after = (
        Runtimes(runtimes.hours[part], runtimes.ended[part], runtimes.limit_hours)
        for part in (slice(0, first), slice(first, None))
    )
    if int(before.ended.sum()) < _LEAST_BEFORE // 2:
        return None
    found = detect_drift(product_limit(before), after, expected=size, false_alarms=_FALSE_ALARMS / looks)
    return replace(found, since=first + found.since) if found is not None else None


def after_drift(strata: Sequence[Stratum], drifted: Drifted | None) -> list[Stratum]:
    """Where runtimes changed, what waits is expected to take as long as those that came since."""
    if drifted is None:
        return list(strata)
    return _to_come(strata, {drifted.stratum: drifted.since})


def on_pilot(strata: Sequence[Stratum], pilot: Sequence[Stratum]) -> list[Stratum]:
    """Where evaluations do not start at random, what waits is expected to take as long as the pilot's.

    Args:
        strata: of all that started.
        pilot: the same of the pilot alone.
    """
    return _to_come(strata, {each.name: each.seen for each in pilot if each.started})


def _to_come(strata: Sequence[Stratum], like: dict[str, Runtimes]) -> list[Stratum]:
    found = []
    for stratum in strata:
        late = like.get(stratum.name)
        if late is None or int(late.ended.sum()) < 2 or not stratum.waiting or not stratum.started:
            found.append(stratum)
            continue
        found.append(replace(stratum, size=stratum.started))
        to_come = replace(stratum, name=f"{stratum.name} to come", size=stratum.waiting, seen=late, borrowed=True)
        found.append(to_come)
    return found
