"""The forecast as it stands: when it ends, what it costs, what endangers deadline and budget, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from referee.challenge import SPOT, Challenge
from referee.errors import ConfigurationError
from referee.ledger import Ledger
from referee.orders import measured_of, members_of, used_shares
from referee.planning.advice import Advice, advise
from referee.planning.catalogue import Catalogue
from referee.planning.classes import NeedClass
from referee.planning.escalation import escalations, with_escalations
from referee.planning.forecast import Forecast, Stratum, forecast
from referee.planning.groups import Group, ratio
from referee.planning.interval import Interval
from referee.planning.money import dollars
from referee.planning.planner import Wishes, make_plan
from referee.planning.strata import elsewhere, strata_of
from referee.planning.tables import BurnUp, burn_up
from referee.prospects.dispatch import after_drift, drift_of, on_pilot
from referee.prospects.drawing import drawn
from referee.prospects.execution import Confirmed, confirmed_plans, pool_name
from referee.prospects.fleet import used
from referee.prospects.history import History, classes, groups, history, spent_aside
from referee.units import format_hours, format_usd
from referee.verdicts import Blame, blame

CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is believed of a phase at a moment.

    Attributes:
        now: the moment; the forecast's hours of the end count from it.
        forecast: hours, cost and end.
        machines: by machine type, how many side by side are reckoned with.
        deadline, budget: what has to be kept; None: nothing.
        advice: what is in danger, why, and what is proposed.
        burn_up: what has ended when, in hours since the first attempt, and the fan of how it goes on.
        began: when the first attempt was planned.
    """

    phase: str
    now: datetime
    forecast: Forecast
    machines: Mapping[str, int]
    deadline: datetime | None
    budget: Decimal | None
    confidence: float
    advice: tuple[Advice, ...]
    burn_up: BurnUp
    began: datetime

    @property
    def ends(self) -> tuple[datetime, datetime, datetime]:
        """Earliest, middle and latest end."""
        hours = self.forecast.end_hours
        low, mid, high = (self.now + timedelta(hours=max(each, 0.0)) for each in (hours.low, hours.mid, hours.high))
        return low, mid, high

    def as_json(self) -> dict[str, Any]:
        """For a script: times in UTC, money as text."""
        expected, in_time, in_budget = self.forecast, self.in_time, self.in_budget
        return {
            "confidence": expected.hours.confidence,
            "size": expected.size,
            "started": expected.started,
            "ended": expected.ended,
            "machine_hours": [expected.hours.low, expected.hours.mid, expected.hours.high],
            "cost_usd": [str(dollars(max(usd, 0.0))) for usd in _three(expected.cost)],
            "end": [moment.isoformat() for moment in self.ends],
            "deadline": self.deadline.isoformat() if self.deadline else None,
            "probability_in_time": in_time,
            "budget_usd": str(self.budget) if self.budget is not None else None,
            "probability_in_budget": in_budget,
            "at_risk": any(advice.danger != "drift" for advice in self.advice),
            "warnings": [asdict(advice) for advice in self.advice],
            "drivers": [asdict(driver) for driver in expected.drivers],
        }

    @property
    def in_time(self) -> float | None:
        """How probable it is that the deadline is met; None without one."""
        if self.deadline is None:
            return None
        return self.forecast.probability_of_end_by((self.deadline - self.now).total_seconds() / 3600)

    @property
    def in_budget(self) -> float | None:
        """How probable it is that the budget holds; None without one."""
        return self.forecast.probability_of_cost_within(float(self.budget)) if self.budget is not None else None

    def sentences(self) -> list[str]:
        """For a person: the forecast, whether anything is at risk, and why."""
        expected, level = self.forecast, f"{self.forecast.hours.confidence:.0%}"
        low, mid, high = (format_hours(hours) for hours in _three(expected.end_hours))
        hours = [format_hours(each) for each in _three(expected.hours)]
        said = [
            (
                f"{self.phase}: ends in {mid}, between {low} and {high} ({level});"
                f" machine time {hours[1]} in all, between {hours[0]} and {hours[2]}."
            )
        ]
        if expected.cost.high > 0:
            cost = [format_usd(max(each, 0.0)) for each in _three(expected.cost)]
            said.append(f"{self.phase}: costs {cost[1]} in all, between {cost[0]} and {cost[2]} ({level}).")
        kept = [
            f"the {what} holds with a probability of {share:.0%}"
            for what, share in (("deadline", self.in_time), ("budget", self.in_budget))
            if share is not None
        ]
        if not self.advice and kept:
            said.append(f"{self.phase}: not at risk; {' and '.join(kept)}.")
        said += [f"{self.phase}: AT RISK. {a.sentence} {a.proposal}" for a in self.advice if a.danger != "drift"]
        said += [f"{self.phase}: drift. {a.sentence} {a.proposal}" for a in self.advice if a.danger == "drift"]
        return said


def _three(interval: Interval) -> tuple[float, float, float]:
    return interval.low, interval.mid, interval.high


def outlook(challenge: Challenge, ledger: Ledger, phase: str, now: datetime) -> Outlook | None:
    """The outlook on a phase; None as long as too little has ended of some kind, and once everything has."""
    past = history(challenge, ledger, phase)
    if past.finished or not past.attempts:
        return None
    catalogue = used(challenge)
    confirmed = (confirmed_plans(ledger, phase) or (None,))[-1]
    needs = needs_of(challenge, past, catalogue, confirmed)
    seen = [
        group
        for group in groups(challenge, past, catalogue, now, needs)
        if group.started or any(group.fits(offer) for offer in catalogue.offers.values())
    ]
    if any(sum(int(runtimes.ended.sum()) for runtimes in group.seen.values()) < 2 for group in seen):
        return None
    if any(name not in catalogue.offers for group in seen for name in group.seen):
        return None
    at_random = challenge.engine.order == "random"
    drifted = drift_of(seen) if at_random else None
    members = members_of(past.kinds, measured_of(past.attempts, catalogue.offers, challenge.limits.cpus), needs)
    gone = used_shares(past.attempts, members, confirmed.at if confirmed else None)
    waiting = _waiting(seen, gone, catalogue, confirmed)
    strata = after_drift(strata_of(seen, catalogue, waiting, 0.0), drifted)
    pilot = drawn(ledger, phase)
    if pilot is not None and not at_random:
        aside, sample = past.smoked_first, set(pilot.evaluations)
        of_pilot = tuple(row for row in past.attempts if row.evaluation in sample or (aside and row.smoke))
        some = replace(past, attempts=of_pilot)
        strata = on_pilot(strata, strata_of(groups(challenge, some, catalogue, now, needs), catalogue, waiting, 0.0))
    machines = _machines(strata, catalogue, confirmed)
    expected = forecast(strata, machines, confidence=CONFIDENCE).shifted(*elsewhere(seen, catalogue))
    expected = _with_aside(expected, past, catalogue, now)
    to_come = {group.name: group.size - group.started for group in seen}
    expected = with_escalations(expected, escalations(seen, catalogue, to_come))
    deadline, budget, confidence = _wishes(challenge, confirmed)
    advice = advise(
        expected,
        machines,
        deadline_hours=(deadline - now).total_seconds() / 3600 if deadline else None,
        budget_usd=float(budget) if budget is not None else None,
        confidence=confidence,
        drift=drifted.drift if drifted else None,
    )
    began = min(row.planned_at for row in past.attempts)
    ended = [(row.ended_at - began).total_seconds() / 3600 for row in past.evaluations if row.ended_at is not None]
    return Outlook(
        phase,
        now,
        expected,
        machines,
        deadline,
        budget,
        confidence,
        tuple(
            _with_proposals(each, challenge, past, seen, catalogue, (deadline, budget, confidence, now))
            for each in advice
        ),
        burn_up(ended, (now - began).total_seconds() / 3600, expected),
        began,
    )


def needs_of(
    challenge: Challenge, past: History, catalogue: Catalogue, confirmed: Confirmed | None
) -> tuple[NeedClass, ...]:
    """The classes of measured need of the plan that was confirmed last; without one, those that a plan would have."""
    if confirmed is not None:
        return confirmed.plan.classes
    return classes(challenge, past, catalogue, [name for name in catalogue.offers if not name.endswith(SPOT)])


def _with_aside(expected: Forecast, past: History, catalogue: Catalogue, now: datetime) -> Forecast:
    """The forecast of the whole, with what probes and smoke runs took that stand aside, and whom these ended."""
    hours, usd = spent_aside(past, catalogue, now)
    ended = len(past.smoked_out)
    return replace(
        expected.shifted(hours, usd),
        size=expected.size + ended,
        started=expected.started + ended,
        ended=expected.ended + ended,
    )


def _wishes(challenge: Challenge, confirmed: Confirmed | None) -> tuple[datetime | None, Decimal | None, float]:
    if confirmed is None:
        return challenge.deadline, challenge.budget, 0.95
    plan = confirmed.plan
    start = plan.made_at or confirmed.at
    deadline = start + timedelta(hours=plan.deadline_hours) if plan.deadline_hours is not None else challenge.deadline
    return deadline, plan.budget if plan.budget is not None else challenge.budget, plan.confidence


def _waiting(
    seen: Sequence[Group], gone: Mapping[tuple[str, str], int], catalogue: Catalogue, confirmed: Confirmed | None
) -> dict[str, dict[str, int]]:
    """For each group, how many of those that wait go to each machine type: as planned, or to the cheapest that fits."""
    found = {}
    for group in seen:
        waiting = group.size - group.started
        fitting = [name for name, offer in catalogue.offers.items() if group.fits(offer) and not name.endswith(SPOT)]
        fitting = fitting or list(group.seen)
        cheapest = min(fitting, key=lambda name: _dear(group, catalogue, name))
        shares = confirmed.plan.assignment.get(group.name, {}) if confirmed else {}
        left = {name: max(count - gone.get((group.name, name), 0), 0) for name, count in shares.items()}
        found[group.name] = _split(waiting, left) if sum(left.values()) else {cheapest: waiting}
    return found


def _dear(group: Group, catalogue: Catalogue, name: str) -> tuple[float, float, float, str]:
    """What an evaluation costs on a machine type, by the speeds that are known: a plan will choose by that.

    Where nothing has a price, there is no plan, and `routing.route` takes the fastest.
    """
    offer = catalogue.offer(name)
    longer = ratio(group, catalogue, group.mostly_on, name).factor if group.seen else 1 / offer.speed
    return float(offer.price) * longer, float(offer.price), -offer.speed, name


def _split(waiting: int, left: Mapping[str, int]) -> dict[str, int]:
    names = sorted(left, key=lambda name: -left[name])
    total, given = sum(left.values()), {}
    for name in names:
        given[name] = waiting * left[name] // total
    given[names[0]] += waiting - sum(given.values())
    return given


def _machines(strata: Sequence[Stratum], catalogue: Catalogue, confirmed: Confirmed | None) -> dict[str, int]:
    planned = {pool_name(pool): pool.machines for pool in confirmed.plan.pools} if confirmed else {}
    pools = {stratum.pool: int(stratum.ages.size) for stratum in strata}
    return {
        name: max(planned.get(name) or catalogue.offer(name).count or running, 1) for name, running in pools.items()
    }


def _with_proposals(
    advice: Advice,
    challenge: Challenge,
    past: History,
    seen: Sequence[Group],
    catalogue: Catalogue,
    wanted: tuple[datetime | None, Decimal | None, float, datetime],
) -> Advice:
    """What else would help: planning anew over all machine types, and retries that are not owed."""
    if advice.danger == "drift":
        return advice
    said = [advice.proposal]
    deadline, budget, confidence, now = wanted
    if len(catalogue.offers) > 1:
        hours, usd = spent_aside(past, catalogue, now)
        left = deadline - now if deadline and deadline > now else None
        spot = frozenset(name for name in catalogue.offers if name.endswith(SPOT))
        wishes = Wishes(left, budget, confidence, challenge.quotas, excluded=spot, aside_hours=hours, aside_usd=usd)
        try:
            plan = make_plan(challenge.name, "", seen, catalogue, wishes)
        except ConfigurationError:
            pass
        else:
            pools = ", ".join(f"{pool.machines} {pool.machine_type}" for pool in plan.pools)
            said.append(f"A new plan would do it with {pools}, for ${plan.cost.mid:,.2f} in all: `referee plan`.")
    retried = sum(
        row.verdict is None and row.last_verdict is not None and blame(row.last_verdict) is Blame.AMBIGUOUS
        for row in past.evaluations
    )
    if retried:
        said.append(f"Stop {retried} retries of what could not be told: they rarely end otherwise.")
    return replace(advice, proposal=" ".join(said))
