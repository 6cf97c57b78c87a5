"""A plan as it is proposed to the operator: with the curve of other deadlines, the rehearsal, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from referee.challenge import Challenge
from referee.errors import ConfigurationError
from referee.ledger import Ledger, queries
from referee.planning.catalogue import Catalogue
from referee.planning.groups import Group, ratio
from referee.planning.interval import Interval
from referee.planning.plan import DeadlineCost, Plan, SpotLosses
from referee.planning.planner import Wishes, make_plan
from referee.planning.rehearsal import Rehearsal, rehearse
from referee.planning.tables import cost_against_deadline, runtime_quantiles
from referee.prospects.execution import pool_name
from referee.prospects.fleet import bought, everything, used
from referee.prospects.hindsight import Spread
from referee.prospects.history import classes, groups, history, spent_aside
from referee.prospects.interruptions import learned
from referee.units import format_duration

_DEADLINES = (0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
_SHORT_REHEARSAL = 200


@dataclass(frozen=True, slots=True)
class Proposal:
    """What `referee plan` shows: the plan, how it may come, and the runtimes that it rests on."""

    plan: Plan
    rehearsal: Rehearsal | None
    spreads: tuple[Spread, ...]


def propose(
    challenge: Challenge, ledger: Ledger, phase: str, catalogue: Catalogue, wishes: Wishes, now: datetime
) -> Proposal:
    """The plan for what is left of a phase.

    Raises:
        ConfigurationError: if too little has run, nothing is left, or no plan keeps the wishes.
    """
    past = history(challenge, ledger, phase)
    if past.finished:
        raise ConfigurationError(f"Every evaluation on {phase} has ended; there is nothing to plan.", hint="")
    ended = past.ended - len(past.smoked_out)
    if ended < 2:
        raise ConfigurationError(
            f"Nothing is known of how long submissions take on {phase}: {ended} have ended.",
            hint=f"Run a pilot first: `referee pilot --phase {phase} --count 20`.",
        )
    # Hours that were seen elsewhere have a speed, too.
    ran_on = {row.machine_type for row in (*past.attempts, *past.aside)}
    known = catalogue.joined({k: v for k, v in used(challenge).offers.items() if k in ran_on})
    needs = classes(challenge, past, known, list(catalogue.offers))
    seen = groups(challenge, past, known, now, needs)
    hours, usd = spent_aside(past, known, now)
    wishes = replace(
        wishes,
        excluded=frozenset(known.offers) - frozenset(catalogue.offers),
        aside_hours=hours,
        aside_usd=usd,
        aside_evaluations=len(past.smoked_out),
    )
    if wishes.spot is not None:
        wishes = replace(wishes, spot=learned(wishes.spot, queries.attempts(ledger), now))
    plan = make_plan(challenge.name, phase, seen, known, wishes)
    plan = plan.model_copy(
        update={
            "made_at": now,
            "spot_losses": SpotLosses(losses=wishes.spot.losses, hours=wishes.spot.hours) if wishes.spot else None,
            "classes": needs,
            "by_deadline": _curve(seen, known, wishes, plan),
            "warnings": (*plan.warnings, *_unknown_speeds(known, catalogue, seen), *_not_rented(challenge, plan)),
        }
    )
    spreads = tuple(
        Spread(group.name, name, hours)
        for group in seen
        if not group.borrowed
        for name, hours in runtime_quantiles(group).items()
    )
    rehearsal = (
        rehearse(plan, seen, known, replicates=_SHORT_REHEARSAL, losses=wishes.spot, aside_usd=usd)
        if plan.pools
        else None
    )
    return Proposal(plan, rehearsal, spreads)


def _curve(seen: Sequence[Group], catalogue: Catalogue, wishes: Wishes, plan: Plan) -> tuple[DeadlineCost, ...]:
    """What other deadlines would cost; nothing where machines cost nothing."""
    if not any(offer.price for offer in catalogue.offers.values()):
        return ()
    middle = plan.deadline_hours or plan.end_hours.mid
    points = cost_against_deadline(seen, catalogue, wishes, [middle * factor / 24 for factor in _DEADLINES])
    return tuple(DeadlineCost(days=each.days, usd=each.usd, machines=each.machines) for each in points)


def _not_rented(challenge: Challenge, plan: Plan) -> tuple[str, ...]:
    """That `run` will refuse spot capacity where the engine has none, said before the operator confirms."""
    there = bought(challenge)
    lacking = [pool_name(pool) for pool in plan.pools if pool.market == "spot" and pool_name(pool) not in there]
    if not lacking:
        return ()
    said = (
        f"The engine {challenge.engine.name} does not rent {', '.join(lacking)}: what it would cost is shown, but"
        " `referee run` will not execute this plan. Plan without --spot."
    )
    return (said,)


def _unknown_speeds(known: Catalogue, catalogue: Catalogue, seen: Sequence[Group]) -> tuple[str, ...]:
    told = {
        name
        for group in seen
        if group.seen
        for name in known.offers
        if name in group.seen or ratio(group, known, group.mostly_on, name).known_from != "declared"
    }
    unknown = [name for name, offer in catalogue.offers.items() if name not in told and offer.speed == 1.0]
    if not unknown:
        return ()
    named = ", ".join(unknown)
    said = f"Nothing has run on {named}: taken to be as fast as the reference type. Write its `speed`, or run a pilot."
    return (said,)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a simulation has shown of a plan."""

    plan: Plan
    replicates: int
    rehearsal: Rehearsal

    def as_json(self) -> dict[str, Any]:
        """For a script."""
        return {"phase": self.plan.phase, "replicates": self.replicates} | asdict(self.rehearsal)

    def sentences(self) -> list[str]:
        """For a person."""
        found, level = self.rehearsal, f"{self.plan.confidence:.0%}"
        waiting = self.plan.evaluations - self.plan.started
        said = [
            f"{self.replicates} times through the plan for the {waiting} evaluations on {self.plan.phase} that wait:",
            f"It ends in {_hours(found.end_hours)} ({level}).",
        ]
        if found.usd.high > 0:
            said.append(f"It costs ${found.usd.low:,.2f} to ${found.usd.high:,.2f} in all ({level}).")
        if found.in_time is not None:
            said.append(f"In {found.in_time:.1%} of them the deadline was met.")
        if found.in_budget is not None:
            said.append(f"In {found.in_budget:.1%} of them the budget held.")
        if found.losses:
            said.append(f"{found.losses:.1f} spot machines were taken away on average.")
        return said


def _hours(interval: Interval) -> str:
    return f"{format_duration(interval.low * 3600)} to {format_duration(interval.high * 3600)}"


def rehearsed(challenge: Challenge, ledger: Ledger, plan: Plan, now: datetime, replicates: int, seed: int) -> Rehearsed:
    """Run a plan many times over, as it may come.

    Raises:
        ConfigurationError: if the plan is for another challenge, or was made before more has started.
    """
    if plan.challenge != challenge.name or plan.phase not in challenge.phases:
        raise ConfigurationError(
            f"The plan is for {plan.phase!r} of {plan.challenge!r}, not for {challenge.name!r}.",
            hint="Make it anew with `referee plan`.",
        )
    past = history(challenge, ledger, plan.phase)
    # The plan may be for machines that the engine does not have.
    offers = everything(challenge, "aws-2022-03").offers | everything(None, "aws-2020-08").offers
    offers |= everything(challenge, "aws-2022-03").offers | used(challenge).offers
    catalogue = Catalogue(name="all", offers=offers)
    seen = groups(challenge, past, catalogue, now, plan.classes)
    started = past.started
    if started != plan.started:
        raise ConfigurationError(
            f"The plan was made when {plan.started} evaluations had started; now {started} have.",
            hint="Make it anew with `referee plan`.",
        )
    _, usd = spent_aside(past, catalogue, now)
    found = rehearse(plan, seen, catalogue, replicates=replicates, seed=seed, aside_usd=usd)
    return Rehearsed(plan, replicates, found)
