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
from referee.planning.runtime import Law, Runtimes, product_limit

# Fewer than these say nothing of a change.
_LEAST_BEFORE, _LEAST_AFTER = 20, 10
_FALSE_ALARMS = 0.01
# Who waits takes some time, however long those were that came first.
_LEAST_SHARE = 0.05


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
    if drifted is None or int(drifted.since.ended.sum()) < 2:
        return list(strata)
    found: list[Stratum] = []
    for stratum in strata:
        apart = stratum.name == drifted.stratum and stratum.waiting and stratum.started
        found += _apart(stratum, drifted.since) if apart else [stratum]
    return found


def on_pilot(strata: Sequence[Stratum], pilot: Sequence[Stratum]) -> list[Stratum]:
    """Where evaluations do not start at random, the pilot tells what all take, and so what is left for the rest.

    Args:
        strata: of all that started.
        pilot: the same of the pilot alone.
    """
    samples = {each.name: each.seen for each in pilot if each.started and int(each.seen.ended.sum()) >= 2}
    found = []
    for stratum in strata:
        sample = samples.get(stratum.name)
        if sample is None or not stratum.waiting or not stratum.started:
            found.append(stratum)
            continue
        begun, to_come = _apart(stratum, sample)
        found += [begun, _what_is_left(stratum, to_come, product_limit(sample))]
    return found


def _what_is_left(whole: Stratum, to_come: Stratum, law: Law) -> Stratum:
    """Those that wait, on whom falls what the pilot's mean leaves of the whole; they inherit all of its error."""
    begun, waiting = _expected_hours(whole.seen, law), to_come.size
    left = (whole.size * law.mean - begun) / waiting
    share = max(left / law.mean, _LEAST_SHARE)
    of_all = whole.size**2 * law.mean_variance * max(1 - law.effective / whole.size, 0.0)
    more = max(of_all - (waiting * share) ** 2 * law.mean_variance, 0.0)
    return replace(to_come, speed=share, speed_error=more**0.5 / (waiting * law.mean))


def _expected_hours(seen: Runtimes, law: Law) -> float:
    """Hours of those that started, once all of them have ended."""
    hours = float(seen.hours[seen.ended].sum())
    for age in seen.hours[~seen.ended]:
        longer = law.hours > age
        mass = float(law.mass[longer].sum())
        hours += float(law.mass[longer] @ law.hours[longer]) / mass if mass > 0 else float(age)
    return hours


def _apart(stratum: Stratum, like: Runtimes) -> tuple[Stratum, Stratum]:
    """Those that started, and those that wait, who are taken to be like others."""
    to_come = replace(stratum, name=f"{stratum.name} to come", size=stratum.waiting, seen=like, borrowed=True)
    return replace(stratum, size=stratum.started), to_come
