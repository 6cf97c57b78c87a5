"""From the plan that the operator confirmed to the controller's orders, and what has to be confirmed at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from referee.challenge import SPOT, Challenge, MachineType
from referee.digests import digest_of
from referee.errors import ConfigurationError
from referee.ledger import Ledger, PlanConfirmed
from referee.orders import Orders
from referee.planning.plan import Plan, PoolPlan, parse_plan
from referee.prospects.probing import probe_attempts, usd_of


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A plan that the operator confirmed, and when."""

    plan: Plan
    at: datetime


def confirmed_plans(ledger: Ledger, phase: str) -> tuple[Confirmed, ...]:
    """The plans that were ever confirmed for a phase, the newest last."""
    return tuple(
        Confirmed(parse_plan(recorded.event.content, "The recorded plan"), recorded.time)
        for recorded in ledger.events(PlanConfirmed)
        if isinstance(recorded.event, PlanConfirmed) and recorded.event.phase == phase
    )


def confirmation(plan: Plan) -> PlanConfirmed:
    """The event that says that the operator confirmed it."""
    content = plan.model_dump_json()
    return PlanConfirmed(phase=plan.phase, digest=digest_of(content), content=content)


def is_paid(machines: Mapping[str, MachineType]) -> bool:
    """Whether anything costs money on these machines."""
    return any(machine.price > 0 for machine in machines.values())


def standing_orders(
    challenge: Challenge, ledger: Ledger, phase: str, machines: Mapping[str, MachineType]
) -> Orders | None:
    """The orders under the plan that was confirmed last; None without one, where nothing costs anything.

    Raises:
        ConfigurationError: if machines cost money and no plan was confirmed.
    """
    confirmed = confirmed_plans(ledger, phase)
    if confirmed:
        return replace(orders_of(confirmed[-1], challenge), aside_usd=aside_usd(ledger, phase, machines))
    if is_paid(machines):
        raise ConfigurationError(
            f"These machines cost money, and no plan was confirmed for {phase}.",
            hint=f"`referee pilot --phase {phase}`, then `referee plan --phase {phase}`, then"
            " `referee run --plan plan.json`.",
        )
    return None


def aside_usd(ledger: Ledger, phase: str, machines: Mapping[str, MachineType]) -> Decimal:
    """What was spent on a phase's probes."""
    return usd_of(probe_attempts(ledger, phase), machines)


def check(plan: Plan, challenge: Challenge, phase: str, machines: Mapping[str, MachineType], started: int) -> None:
    """Refuse a plan that is not for this challenge and phase, or that the engine cannot execute.

    Raises:
        ConfigurationError: with what does not fit.
    """
    again = "Make it anew with `referee plan`."
    if (plan.challenge, plan.phase) != (challenge.name, phase):
        raise ConfigurationError(
            f"The plan is for the phase {plan.phase!r} of {plan.challenge!r}, not for {phase!r} of {challenge.name!r}.",
            hint=again,
        )
    if started != plan.started:
        raise ConfigurationError(
            f"The plan was made when {plan.started} evaluations had started; now {started} have.", hint=again
        )
    for pool in plan.pools:
        name = pool_name(pool)
        if pool.market == "spot" and name not in machines:
            raise ConfigurationError(
                f"The plan wants spot capacity of {pool.machine_type}, which the engine {challenge.engine.name!r} does"
                " not rent.",
                hint="Plan without --spot.",
            )
        if name not in machines:
            raise ConfigurationError(
                f"The plan wants {pool.machine_type}, which the engine {challenge.engine.name!r} does not have.",
                hint=f"It has: {', '.join(machines)}. Plan without --machine, or choose another engine.",
            )
        if pool.usd_per_hour < machines[name].price:
            raise ConfigurationError(
                f"{name} costs ${machines[name].price} an hour now, and ${pool.usd_per_hour} in the plan.",
                hint=again,
            )


def orders_of(confirmed: Confirmed, challenge: Challenge) -> Orders:
    """What the controller is to do under a confirmed plan."""
    plan = confirmed.plan
    return Orders(
        shares=plan.assignment,
        classes=plan.classes,
        machines={pool_name(pool): pool.machines for pool in plan.pools},
        since=confirmed.at,
        budget_usd=plan.budget if plan.budget is not None else challenge.budget,
    )


def pool_name(pool: PoolPlan) -> str:
    """The name under which an engine has the machine type: spot capacity is a type of its own."""
    return pool.machine_type + SPOT if pool.market == "spot" else pool.machine_type
