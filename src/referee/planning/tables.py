"""Tables and pictures of the planner as plain data; the command line, the report and the pages draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from referee.planning.assignment import LITTLE, NoPlanError
from referee.planning.catalogue import Catalogue, Offer
from referee.planning.forecast import Forecast
from referee.planning.groups import Group
from referee.planning.plan import Plan
from referee.planning.planner import Wishes, make_plan
from referee.planning.runtime import product_limit
from referee.planning.spot import MOST_TRIES
from referee.units import format_duration, format_hours, format_size


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under columns; a column whose name starts with `#` holds numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def machines_table(catalogue: Catalogue) -> Table:
    """The catalogue: what each type has, its prices, and when and where they stood so."""
    rows = tuple(_machine_row(name, offer) for name, offer in catalogue.offers.items())
    columns = (
        "machine type",
        "#vCPUs",
        "#memory",
        "GPUs",
        "#$/h",
        "#spot $/h",
        "region",
        "quota",
        "price of",
        "source",
    )
    return Table(f"Machine types ({catalogue.name})", columns, rows, _billing_notes(catalogue))


def _billing_notes(catalogue: Catalogue) -> tuple[str, ...]:
    """How long machines boot and how they are billed: a line for all that are alike."""
    alike: dict[str, list[str]] = {}
    for name, offer in catalogue.offers.items():
        boot = f"a boot takes {format_duration(offer.boot)}" if offer.boot else "no boot"
        least = f", for at least {format_duration(offer.billing_minimum)}" if offer.billing_minimum else ""
        step = format_duration(offer.billing_granularity)
        free = "; a spot machine that is taken away within its first hour costs nothing" * offer.interrupted_hour_free
        alike.setdefault(f"{boot}, billed in steps of {step}{least}{free}.", []).append(name)
    return tuple(
        f"{', '.join(names) if len(names) <= 4 else f'{names[0]} to {names[-1]} ({len(names)} types)'}: {facts}"
        for facts, names in alike.items()
    )


def _machine_row(name: str, offer: Offer) -> tuple[str, ...]:
    gpus = f"{offer.gpus} x {offer.gpu_model or 'GPU'}, {format_size(offer.gpu_memory or 0)}" if offer.gpus else ""
    return (
        name,
        f"{offer.cpus:g}",
        format_size(offer.memory),
        gpus,
        str(offer.price),
        str(offer.spot_price) if offer.spot_price is not None else "",
        offer.region,
        offer.quota_pool or "",
        str(offer.price_date or ""),
        offer.price_source
        + (f"; spot: {offer.spot_source}, {offer.spot_date}" if offer.spot_price is not None else ""),
    )


def plan_table(plan: Plan) -> Table:
    """What to rent: machines, runtime, cost, and cost for one submission, for each machine type."""
    rows = tuple(
        (
            pool.machine_type + (" (spot)" if pool.market == "spot" else ""),
            str(pool.machines),
            str(pool.evaluations),
            _hours(pool.hours),
            f"{pool.usd_per_hour}",
            f"{pool.usd:,.2f}",
            f"{pool.usd_per_evaluation:,.2f}",
        )
        for pool in plan.pools
    )
    columns = ("machine type", "#machines", "#evaluations", "#machine time", "#$/h", "#cost", "#for one")
    return Table("What is still to be run", columns, rows, _plan_notes(plan))


def _hours(hours: float) -> str:
    """Machine time; in hours also where it is days, as it is paid for."""
    return f"{hours:,.1f} h" if hours >= 1 else format_hours(hours)


def _plan_notes(plan: Plan) -> tuple[str, ...]:
    level = f"{plan.confidence:.0%}"
    ends = [format_hours(hours) for hours in (plan.end_hours.low, plan.end_hours.high)]
    cost = f"In all it costs ${plan.cost.mid:,.2f}, between ${plan.cost.low:,.2f} and ${plan.cost.high:,.2f} ({level})."
    said = [
        f"{plan.ended} of {plan.evaluations} evaluations have ended; the forecast rests on them.",
        cost if plan.cost.high else _next_to_nothing(plan),
        (
            f"In all it takes {_hours(plan.hours.mid)} of machine time, between {_hours(plan.hours.low)} and"
            f" {_hours(plan.hours.high)} ({level})."
        ),
        f"It ends in {ends[0]} to {ends[1]} ({level}).",
    ]
    said += _classes(plan)
    if plan.probability_in_time is not None:
        said.append(f"The deadline is met with a probability of {plan.probability_in_time:.0%}.")
    if plan.bound_usd:
        said.append(
            f"No assignment of what waits costs less than ${plan.bound_usd:,.2f} ({plan.gap:.2%} below this one)."
        )
    if plan.price_of_confidence_usd:
        said.append(f"The confidence costs ${plan.price_of_confidence_usd:,.2f} against a plan with even odds.")
    if any(pool.market == "spot" for pool in plan.pools) and plan.spot_losses is not None:
        rate = plan.spot_losses.losses / plan.spot_losses.hours
        said.append(
            f"Spot machines are believed to be taken away {rate:.2g} times an hour; after {MOST_TRIES} such losses an"
            " evaluation runs on demand."
        )
    said += [*plan.drivers, plan.one_more_day, *_changes(plan.changes), *plan.warnings]
    return tuple(note for note in said if note)


def _classes(plan: Plan) -> list[str]:
    """Of each class of measured need, how many are in it, and where those go that wait."""
    said = []
    for each in plan.classes:
        going = [f"{count} to {name}" for name, count in plan.assignment.get(each.name, {}).items()]
        if each.evaluations:
            waiting = f"of those that wait, {' and '.join(going)}" if going else "none of them waits"
            said.append(f"{each.name}: {each.evaluations} were measured to need so much; {waiting}.")
    for kind in sorted({each.kind for each in plan.classes} & set(plan.assignment)):
        going = [f"{count} to {name}" for name, count in plan.assignment[kind].items()]
        said.append(f"{kind}, not measured yet: {' and '.join(going)}.")
    return said


def _next_to_nothing(plan: Plan) -> str:
    if any(pool.usd_per_hour for pool in plan.pools):
        return "In all it costs less than a cent."
    return "These machines cost nothing."


def _changes(changes: Sequence[str]) -> list[str]:
    """What other machines or deadlines would change; those that would change next to nothing in one sentence."""
    little = [each.removesuffix(LITTLE) for each in changes if each.endswith(LITTLE)]
    told = [each for each in changes if not each.endswith(LITTLE)]
    if len(little) < 2:
        return list(changes)
    listed = ", ".join(each[0].lower() + each[1:] for each in little[:-1])
    return [*told, f"None of these would change the cost by 0.5%: {listed} or {little[-1][0].lower()}{little[-1][1:]}."]


@dataclass(frozen=True, slots=True)
class BurnUp:
    """Evaluations ended over time, and the fan of how it goes on.

    Attributes:
        past: points (hours since the start, evaluations ended).
        fan: for each level, the hours since the start at which all have ended with that probability.
        size: evaluations in all.
    """

    past: tuple[tuple[float, int], ...]
    fan: tuple[tuple[float, float], ...]
    size: int


def burn_up(ended_hours: Sequence[float], now_hours: float, seen: Forecast) -> BurnUp:
    """The burn-up picture's data; `ended_hours` are hours since the start."""
    past = tuple((hours, place + 1) for place, hours in enumerate(sorted(ended_hours)))
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    return BurnUp(past, tuple((level, now_hours + float(np.quantile(seen.ends, level))) for level in levels), seen.size)


@dataclass(frozen=True, slots=True)
class DeadlinePoint:
    """What a deadline would cost; None where no plan keeps it."""

    days: float
    usd: float | None
    machines: int | None


def cost_against_deadline(
    groups: Sequence[Group], catalogue: Catalogue, wishes: Wishes, days: Sequence[float], *, seed: int = 0
) -> tuple[DeadlinePoint, ...]:
    """The plan's cost and machines for each of these deadlines, the budget aside."""
    points = []
    for day in days:
        asked = replace(wishes, deadline=timedelta(days=day), budget=None)
        try:
            plan = make_plan("", "", groups, catalogue, asked, seed=seed)
        except NoPlanError:
            points.append(DeadlinePoint(day, None, None))
            continue
        points.append(DeadlinePoint(day, float(plan.cost.mid), sum(pool.machines for pool in plan.pools)))
    return tuple(points)


def runtime_quantiles(
    group: Group, levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)
) -> dict[str, tuple[float, ...]]:
    """Hours of an evaluation at these levels, by the machine type that it ran on, where at least two have ended."""
    found = {}
    for name, runtimes in group.seen.items():
        if int(runtimes.ended.sum()) >= 2:
            law = product_limit(runtimes)
            places = np.minimum(np.searchsorted(np.cumsum(law.mass), np.array(levels) - 1e-12), law.hours.size - 1)
            found[name] = tuple(float(hours) for hours in law.hours[places])
    return found
