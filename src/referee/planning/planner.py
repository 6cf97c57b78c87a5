"""From the pilot to the plan: laws of runtimes, expected hours, machines, and the reserve that the confidence needs.

The assignment is made with expected hours; the forecast on its machines says how probable the deadline is; the reserve
is raised until it is as probable as was asked for. The catalogue that is given holds only machine types whose speed is
known: those that evaluations have run on, and those whose speed the operator declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

import numpy as np

from referee.challenge import SPOT
from referee.errors import ConfigurationError
from referee.planning.assignment import Assignment, Bounds, Need, NoPlanError, Option, assign, what_if
from referee.planning.catalogue import Catalogue, Offer
from referee.planning.escalation import escalations, with_escalations
from referee.planning.forecast import Forecast, Stratum, forecast, half_width_after
from referee.planning.groups import Group, law_on, spent_usd
from referee.planning.interval import Interval
from referee.planning.money import dollars
from referee.planning.plan import Plan, PoolPlan, Range, UsdRange
from referee.planning.spot import LossRate, best_purchase
from referee.planning.strata import elsewhere, strata_of
from referee.units import format_duration

_MOST_ROUNDS = 12
_STEP_MACHINES = 10
# Without a deadline, machines are counted as if it had to end within a week.
_UNHURRIED_HOURS = 168.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asks for.

    Attributes:
        deadline: from now.
        confidence: with which deadline and budget are to be kept.
        quotas: vCPUs at the same time for each quota pool.
        spot: how often spot machines are believed to be taken away; None: all on demand.
        overhead_hours: pull and staging of an evaluation.
        excluded: machine types that evaluations have run on, but that are not to be planned with.
        aside_hours, aside_usd: what was spent on probes; part of the whole, and of the budget.
        aside_evaluations: those that ended aside of the groups, in a smoke run; part of the whole.
    """

    deadline: timedelta | None = None
    budget: Decimal | None = None
    confidence: float = 0.95
    quotas: Mapping[str, float] | None = None
    spot: LossRate | None = None
    overhead_hours: float = 0.0
    excluded: frozenset[str] = frozenset()
    aside_hours: float = 0.0
    aside_usd: float = 0.0
    aside_evaluations: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise ConfigurationError(
                f"A confidence of {self.confidence:.0%} is not possible.", hint="Choose 50% to 99.9%."
            )


def make_plan(
    challenge: str, phase: str, groups: Sequence[Group], catalogue: Catalogue, wishes: Wishes, *, seed: int = 0
) -> Plan:
    """The plan of least expected cost that keeps the wishes, from what the pilot has shown.

    Raises:
        ConfigurationError: if a group has fewer than two ended evaluations, or fits no machine type.
        NoPlanError: if deadline, budget and quotas cannot all be kept.
    """
    planner = _Planner(groups, catalogue, wishes, seed)
    even = planner.bounds(reserve=1.0)
    bounds, assignment = even, planner.assign(even)
    even_usd = assignment.usd
    machines, seen = planner.forecast(assignment, bounds)
    for _ in range(_MOST_ROUNDS):
        if wishes.deadline is None or planner.in_time(seen) >= wishes.confidence:
            break
        needed = float(np.quantile(seen.ends, wishes.confidence)) / max(planner.deadline_hours or 1.0, 1e-9)
        bounds = replace(bounds, reserve=bounds.reserve * max(needed, 1.02))
        assignment = planner.assign(bounds)
        machines, seen = planner.forecast(assignment, bounds)
    else:
        raise NoPlanError(
            f"No number of machines meets the deadline with {wishes.confidence:.0%} confidence.",
            hint="A later deadline, or a lower confidence, would do.",
        )
    return planner.plan(challenge, phase, assignment, machines, seen, bounds, even_usd)


class _Planner:
    """What stays the same while reserve and machines are found."""

    def __init__(self, groups: Sequence[Group], catalogue: Catalogue, wishes: Wishes, seed: int) -> None:
        self.catalogue, self.wishes, self.seed = catalogue, wishes, seed
        self.offers = {name: offer for name, offer in catalogue.offers.items() if name not in wishes.excluded}
        fits = {group.name: any(group.fits(offer) for offer in self.offers.values()) for group in groups}
        # What was never started and fits nowhere cannot be planned; the plan says so.
        self.left_out = [group for group in groups if not fits[group.name] and not group.started]
        self.groups = groups = [group for group in groups if group not in self.left_out]
        if not groups:
            raise ConfigurationError(
                "No evaluation fits any machine type.", hint="Add one with more memory or GPUs under [machines.*]."
            )
        self.laws = {group.name: law_on(group, catalogue, group.mostly_on) for group in groups}
        self.elsewhere = elsewhere(groups, catalogue)
        self.deadline_hours = wishes.deadline.total_seconds() / 3600 if wishes.deadline else None
        waiting = {group.name: group.size - group.started for group in groups}
        self.escalations = escalations(groups, catalogue, waiting)
        self.options = [option for name, offer in self.offers.items() for option in _options(name, offer, wishes)]
        self.needs = [self._need(group) for group in groups if group.size > group.started]

    def bounds(self, reserve: float) -> Bounds:
        budget = (
            float(self.wishes.budget) - spent_usd(self.groups, self.catalogue) - self.wishes.aside_usd
            if self.wishes.budget is not None
            else None
        )
        rng = np.random.default_rng(self.seed)
        # The last ones run on alone for about what the longest of a fleet's evaluations has left.
        tail = max(float(law.draw_in_progress(rng, (200, 50)).max(axis=1).mean()) for law in self.laws.values())
        if self.deadline_hours is not None and tail > self.deadline_hours:
            raise NoPlanError("The longest evaluations alone take longer than the deadline.", hint="Make it later.")
        return Bounds(self.deadline_hours, reserve, tail, budget, self.wishes.quotas)

    def assign(self, bounds: Bounds) -> Assignment:
        if not self.needs:
            return Assignment({}, 0.0, 0.0, {}, True)
        return assign(self.needs, self.options, bounds)

    def in_time(self, seen: Forecast) -> float:
        return seen.probability_of_end_by(self.deadline_hours) if self.deadline_hours is not None else 1.0

    def forecast(self, assignment: Assignment, bounds: Bounds) -> tuple[dict[str, int], Forecast]:
        machines = assignment.machines(
            bounds if self.deadline_hours else replace(bounds, deadline_hours=_UNHURRIED_HOURS)
        )
        strata = self.strata(assignment)
        for stratum in strata:
            machines.setdefault(stratum.pool, 1)
        for option in self.options:
            # Own machines are there anyway: all of them work, but not more of them than there are evaluations.
            if option.name in machines and option.machines is not None:
                waiting = sum(n for (_, name), n in assignment.counts.items() if name == option.name)
                machines[option.name] = max(min(option.machines, max(waiting, 1)), 1)
        return machines, self._from_boot(strata, machines, 1000)

    def _from_boot(self, strata: Sequence[Stratum], machines: Mapping[str, int], replicates: int) -> Forecast:
        """The forecast, where the machines that are to be rented have to boot first."""
        seen = forecast(strata, machines, confidence=self.wishes.confidence, seed=self.seed, replicates=replicates)
        seen = seen.shifted(*self.elsewhere)
        seen = with_escalations(seen, self.escalations)
        waited_for = [stratum.pool.removesuffix(SPOT) for stratum in strata if stratum.waiting]
        boot = max((self.catalogue.offer(name).boot_hours for name in waited_for), default=0.0)
        return replace(seen, ends=seen.ends + boot, end_hours=seen.end_hours.shifted(boot))

    def strata(self, assignment: Assignment) -> list[Stratum]:
        """The strata, with what losses of spot machines add to their hours."""
        stretch = {
            (need.name, option): usd / (need.hours[option.removesuffix(SPOT)] * self._usd_per_hour(option))
            for need in self.needs
            for option, usd in (need.usd or {}).items()
        }
        plain = strata_of(self.groups, self.catalogue, _split(assignment), self.wishes.overhead_hours)
        return [
            replace(s, speed=s.speed * factor, speed_error=s.speed_error * factor)
            for s in plain
            for factor in (max(stretch.get((s.name.split(" on ")[0], s.pool), 1.0), 1.0),)
        ]

    def _need(self, group: Group) -> Need:
        hours, usd = {}, {}
        for name, offer in self.offers.items():
            if not group.fits(offer):
                continue
            law = law_on(group, self.catalogue, name)
            hours[name] = law.mean + self.wishes.overhead_hours + offer.boot_of_each_hours
            if self.wishes.spot is not None and offer.spot_price is not None:
                runtimes = np.repeat(law.hours, np.maximum(np.round(law.mass * 400), 1).astype(np.int64))
                overhead = self.wishes.overhead_hours + offer.boot_hours + offer.boot_of_each_hours
                price = float(offer.spot_price)
                best = best_purchase(runtimes, overhead, self.wishes.spot.points(), price, float(offer.price))
                if best.tries:
                    usd[name + SPOT] = best.usd
                    hours[name + SPOT] = max(best.usd / price, hours[name])
        return Need(group.name, group.size - group.started, hours, usd or None)

    def plan(
        self,
        challenge: str,
        phase: str,
        assignment: Assignment,
        machines: Mapping[str, int],
        seen: Forecast,
        bounds: Bounds,
        even_usd: float,
    ) -> Plan:
        strata = self.strata(assignment)
        beside = self.wishes.aside_usd + sum(
            count * self.catalogue.offer(name.removesuffix(SPOT)).boot_hours * self._usd_per_hour(name)
            for name, count in machines.items()
        )
        in_budget = (
            seen.probability_of_cost_within(float(self.wishes.budget) - beside)
            if self.wishes.budget is not None
            else None
        )
        now, later = half_width_after(strata, machines, 24.0)
        pools = [self._pool(name, count, assignment) for name, count in machines.items()]
        changes = what_if(self.needs, self.options, bounds, assignment) if self.needs else []
        return Plan(
            challenge=challenge,
            phase=phase,
            evaluations=seen.size + self.wishes.aside_evaluations,
            started=seen.started + self.wishes.aside_evaluations,
            ended=seen.ended + self.wishes.aside_evaluations,
            confidence=self.wishes.confidence,
            deadline_hours=self.deadline_hours,
            budget=self.wishes.budget,
            pools=tuple(pool for pool in pools if pool.evaluations),
            assignment=_split(assignment),
            hours=_range(seen.hours.shifted(self.wishes.aside_hours)),
            cost=_usd_range(seen.cost.shifted(beside)),
            end_hours=_range(seen.end_hours),
            probability_in_time=self.in_time(seen) if self.deadline_hours is not None else None,
            probability_in_budget=in_budget,
            bound_usd=dollars(assignment.bound_usd),
            gap=assignment.gap,
            price_of_confidence_usd=dollars(max(assignment.usd - even_usd, 0.0)),
            drivers=tuple(
                f"{d.cause} ({d.share:.0%} of the width): {d.remedy}" for d in seen.drivers if d.share >= 0.01
            ),
            one_more_day=f"One more day on these machines would narrow the forecast from ±{now:.1%} to ±{later:.1%}."
            if now >= 0.001 and seen.end_hours.mid > 24.0
            else "",
            changes=(*(change.sentence for change in changes), *self._other_fleets(strata, machines, seen)),
            warnings=self._warnings(in_budget),
        )

    def _other_fleets(self, strata: Sequence[Stratum], machines: Mapping[str, int], seen: Forecast) -> list[str]:
        """When it would end with more or fewer machines of each type, all else being as planned."""
        said = []
        for name, count in machines.items():
            # Own machines are as many as they are; a plan without a queue ends no sooner with more of them.
            mine = [stratum for stratum in strata if stratum.pool == name]
            own = name in self.offers and self.offers[name].count is not None
            if own or not any(stratum.waiting for stratum in mine):
                continue
            step = min(_STEP_MACHINES, max(count // 2, 1))
            for more, word in ((step, "more"), (-step, "fewer")):
                if count + more < 1:
                    continue
                then = self._from_boot(strata, {**machines, name: count + more}, 200)
                ends = (format_duration(max(each.end_hours.mid, 0.0) * 3600) for each in (then, seen))
                said.append("With {} {} of {} it would end in about {} instead of {}.".format(step, word, name, *ends))
        return said

    def _usd_per_hour(self, option: str) -> float:
        return next((each.usd_per_hour for each in self.options if each.name == option), 0.0)

    def _pool(self, name: str, count: int, assignment: Assignment) -> PoolPlan:
        offer = self.catalogue.offer(name.removesuffix(SPOT))
        spot = name.endswith(SPOT)
        usd = sum(
            n * _cost(next(need for need in self.needs if need.name == group), option, self._usd_per_hour(option))
            for (group, option), n in assignment.counts.items()
            if option == name
        )
        evaluations = sum(n for (_, option), n in assignment.counts.items() if option == name)
        return PoolPlan(
            machine_type=name.removesuffix(SPOT),
            market="spot" if spot else "on_demand",
            machines=count,
            evaluations=evaluations,
            hours=assignment.hours.get(name, 0.0),
            usd=dollars(usd),
            usd_per_hour=(offer.spot_price or Decimal(0)) if spot else offer.price,
            usd_per_evaluation=dollars(usd / evaluations if evaluations else 0.0),
            price_date=offer.spot_date if spot else offer.price_date,
            price_source=(offer.spot_source or "") if spot else offer.price_source,
            quota_pool=offer.quota_pool,
        )

    def _warnings(self, in_budget: float | None) -> tuple[str, ...]:
        said = [
            f"{group.size} {group.name} evaluation{' fits' if group.size == 1 else 's fit'} no machine type and"
            f" {'is' if group.size == 1 else 'are'} not in the plan."
            for group in self.left_out
        ]
        if in_budget is not None and in_budget < self.wishes.confidence:
            said.append(f"The budget holds with a probability of {in_budget:.0%} only.")
        if self.wishes.spot is not None and all(offer.spot_price is None for offer in self.offers.values()):
            said.append("No machine type here has a spot price: everything is on demand.")
        unsaid = [name for name, offer in self.offers.items() if offer.alone and offer.boot is None]
        if unsaid:
            said.append(
                f"Each evaluation boots a machine for itself, and {', '.join(unsaid)} say no `boot`: it counts 0."
            )
        dates = [offer.price_date for offer in self.offers.values() if offer.price_date]
        if dates:
            said.append(f"Prices are those of {min(dates)}: check them before you confirm.")
        return tuple(said)


def _split(assignment: Assignment) -> dict[str, dict[str, int]]:
    split: dict[str, dict[str, int]] = {}
    for (group, option), count in assignment.counts.items():
        split.setdefault(group, {})[option] = count
    return split


def _cost(need: Need, option: str, usd_per_hour: float) -> float:
    return need.usd[option] if need.usd and option in need.usd else need.hours[option] * usd_per_hour


def _options(name: str, offer: Offer, wishes: Wishes) -> list[Option]:
    on_demand = Option(name, float(offer.price), offer.quota_pool, offer.cpus, offer.count, offer.boot_hours)
    if wishes.spot is None or offer.spot_price is None:
        return [on_demand]
    return [on_demand, replace(on_demand, name=name + SPOT, usd_per_hour=float(offer.spot_price))]


def _range(interval: Interval) -> Range:
    return Range(low=interval.low, mid=interval.mid, high=interval.high, confidence=interval.confidence)


def _usd_range(interval: Interval) -> UsdRange:
    return UsdRange(
        low=dollars(max(interval.low, 0.0)),
        mid=dollars(interval.mid),
        high=dollars(interval.high),
        confidence=interval.confidence,
    )
