"""Evaluations of one kind, what they need of a machine, what was seen of them, and how long they take elsewhere.

How long they take on a machine type on which they have not run is known in three ways, the best first: probes of the
same submissions on both types, or enough runs on both; the CPUs that they kept busy, where a type has fewer than that;
and the speed that the operator declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from referee.challenge import SPOT
from referee.errors import ConfigurationError
from referee.planning.catalogue import Catalogue, Offer
from referee.planning.runtime import Law, Runtimes, product_limit
from referee.planning.speeds import Speed

Floats = NDArray[np.float64]

# Until a submission has run on a type, its speed there is only known about so well (relative standard error).
_SPEED_ERROR = 0.15
# So many ended ones on each of two types tell the ratio of their speeds better than what was declared.
LEAST_FOR_SPEED = 8
# Fewer say little of how many CPUs are used, or of how long a class of them takes.
LEAST_MEASURED = 10


@dataclass(frozen=True, slots=True)
class Group:
    """Evaluations of one kind, what they need, and what was seen of them.

    Attributes:
        size: all of them, started or not.
        cpus, memory_bytes, gpus, gpu_memory_bytes: what one needs of a machine.
        seen: those that were started, by the machine type that they ran on; a random sample.
        who: by machine type, which evaluations these are, in the order of `seen`; empty where nobody knows.
        cpus_used: by machine type, the mean number of CPUs that each kept busy; 0 where not measured.
        speeds: from probes, by pair of machine types (from, to).
        moved: those that outgrew the machine type on which they began.
        public: hours on a public phase, as recorded, of all of them; empty where they are not recorded.
        lender: those seen are others, which are taken to stand for these, of which none has started: those of the group
            of this name, which has counted them, or of nobody in particular where it is empty. None: they are its own.
    """

    name: str
    size: int
    cpus: float
    memory_bytes: int
    gpus: int
    gpu_memory_bytes: int
    seen: Mapping[str, Runtimes]
    who: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cpus_used: Mapping[str, Floats] = field(default_factory=dict)
    speeds: Mapping[tuple[str, str], Speed] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()
    public: Mapping[str, float] = field(default_factory=dict)
    lender: str | None = None

    @property
    def borrowed(self) -> bool:
        """Whether those seen are others."""
        return self.lender is not None

    @property
    def started(self) -> int:
        """How many were started."""
        if self.borrowed:
            return 0
        return sum(runtimes.hours.size for runtimes in self.seen.values())

    def fits(self, offer: Offer) -> bool:
        """Whether one can run on such a machine."""
        return (
            offer.cpus >= self.cpus
            and offer.memory >= self.memory_bytes
            and offer.gpus >= self.gpus
            and offer.gpu_memory_bytes >= self.gpu_memory_bytes
        )

    @property
    def mostly_on(self) -> str:
        """The machine type on which most of them have ended.

        Raises:
            ConfigurationError: if none was run yet.
        """
        if not self.seen:
            raise ConfigurationError(f"No {self.name} evaluation was run yet.", hint="Run `referee pilot` first.")
        return max(self.seen, key=lambda name: int(self.seen[name].ended.sum()))


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times longer a group's evaluations take on a machine type than on another.

    Attributes:
        factor, error: of all of them, and its standard error.
        known_from: `probes`, `runs`, `CPUs used` or `declared`.
        each: shape (seen on the first type,): the factor of each of those that were seen there.
    """

    factor: float
    error: float
    known_from: str
    each: Floats


def ratio(group: Group, catalogue: Catalogue, here: str, to: str) -> Ratio:
    """How many times longer a group takes on `to` than on `here`, by the best that is known."""
    size = group.seen[here].hours.size if here in group.seen else 0
    if here.removesuffix(SPOT) == to.removesuffix(SPOT):  # the same machine, however it was bought
        return Ratio(1.0, 0.0, "runs", np.ones(size))
    best = min(
        (found for found in (_of_probes(group, here, to), _of_runs(group, here, to)) if found is not None),
        key=lambda found: found.error / found.factor,
        default=None,
    )
    return best or _of_use(group, catalogue, here, to) or _as_declared(group, catalogue, here, to)


def _of_probes(group: Group, here: str, to: str) -> Ratio | None:
    speed = group.speeds.get((here, to))
    if speed is None:
        return None
    names = group.who.get(here, ())
    size = group.seen[here].hours.size if here in group.seen else 0
    own = [speed.each.get(name, (speed.factor, 0.0))[0] for name in names]
    each = np.array(own) if len(own) == size else np.full(size, speed.factor)
    return Ratio(speed.factor, speed.error, "probes", each)


def _of_runs(group: Group, here: str, to: str) -> Ratio | None:
    """From the mean hours of those that ran here and there, who are samples of the same group."""
    seen, there = group.seen.get(here), group.seen.get(to)
    if seen is None or there is None or min(int(x.ended.sum()) for x in (seen, there)) < LEAST_FOR_SPEED:
        return None
    laws = product_limit(seen), product_limit(there)
    if min(law.mean for law in laws) <= 0:
        return None
    factor = laws[1].mean / laws[0].mean
    error = factor * sum(law.mean_variance / law.mean**2 for law in laws) ** 0.5
    return Ratio(factor, error, "runs", np.full(seen.hours.size, factor))


def _of_use(group: Group, catalogue: Catalogue, here: str, to: str) -> Ratio | None:
    """On fewer CPUs than it kept busy, a submission takes longer by as much; on fewer idle ones, it does not."""
    used, offers = group.cpus_used.get(here), catalogue.offers
    if group.gpus or used is None or int((used > 0).sum()) < LEAST_MEASURED or not {here, to} <= set(offers):
        return None
    if offers[to].cpus >= offers[here].cpus or offers[to].speed != offers[here].speed:
        # Nobody knows what more CPUs would be used for, and a declared speed is the operator's word.
        return None
    longer = np.maximum(used / offers[to].cpus, 1.0)
    hours, known = group.seen[here].hours, used > 0
    factor = float(longer[known] @ hours[known] / max(float(hours[known].sum()), 1e-12))
    return Ratio(factor, factor * _SPEED_ERROR, "CPUs used", np.where(known, longer, factor))


def _as_declared(group: Group, catalogue: Catalogue, here: str, to: str) -> Ratio:
    known = {here, to} <= set(catalogue.offers)
    factor = catalogue.offers[here].speed / catalogue.offers[to].speed if known else 1.0
    size = group.seen[here].hours.size if here in group.seen else 0
    return Ratio(factor, factor * _SPEED_ERROR, "declared", np.full(size, factor))


def hours_on(group: Group, catalogue: Catalogue, name: str) -> Runtimes:
    """All that was seen of a group, in hours on a machine type: each submission by its own speed where known."""
    ratios = {here: ratio(group, catalogue, here, name) for here in group.seen}
    hours = [group.seen[here].hours * found.each for here, found in ratios.items()]
    limits = [group.seen[here].limit_hours * found.factor for here, found in ratios.items()]
    ended = [group.seen[here].ended for here in ratios]
    longest = [float(part[over].max(initial=0.0)) for part, over in zip(hours, ended, strict=True)]
    return Runtimes(np.concatenate(hours), np.concatenate(ended), max(*limits, *longest))


def law_on(group: Group, catalogue: Catalogue, name: str) -> Law:
    """The law of a group's hours on a machine type."""
    return product_limit(hours_on(group, catalogue, name))


def spent_usd(groups: Sequence[Group], catalogue: Catalogue) -> float:
    """What the hours cost that were spent so far, at on-demand prices; with the boots that were of one evaluation."""
    return sum(
        float((np.minimum(runtimes.hours, runtimes.limit_hours) + catalogue.offers[name].boot_of_each_hours).sum())
        * float(catalogue.offers[name].price)
        for group in groups
        for name, runtimes in group.seen.items()
        if name in catalogue.offers and not group.borrowed
    )
