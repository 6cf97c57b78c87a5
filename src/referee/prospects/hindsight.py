"""What was forecast beside what came: for the report, and for whoever asks whether forecasts can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from referee.challenge import Challenge
from referee.ledger import CampaignWarned, ForecastMade, Ledger
from referee.planning.money import dollars
from referee.planning.plan import Plan
from referee.planning.tables import runtime_quantiles
from referee.prospects.execution import Confirmed, confirmed_plans
from referee.prospects.fleet import used
from referee.prospects.history import History, groups, history, seconds_taken

Instants = tuple[datetime, datetime, datetime]


@dataclass(frozen=True, slots=True)
class Foresight:
    """A forecast, when it was made and on how much it rested: low, middle and high of hours, cost and end.

    `begins` is when work went on after it: between pilot, plan and run the operator reads and sleeps.
    """

    moment: Literal["pilot", "plan", "run"]
    at: datetime
    begins: datetime
    ended: int
    size: int
    confidence: float
    hours: tuple[float, float, float]
    usd: tuple[Decimal, Decimal, Decimal]
    ends: Instants


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: machine hours and dollars of all attempts, and when the last evaluation ended."""

    hours: float
    usd: Decimal
    end: datetime


@dataclass(frozen=True, slots=True)
class Spread:
    """Hours of an evaluation of a kind on a machine type, at the levels 5, 25, 50, 75 and 95%."""

    kind: str
    machine_type: str
    hours: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Hindsight:
    """All that is told of a phase's forecasts.

    Attributes:
        began: when the first attempt was planned.
        size: evaluations that are run.
        ended: for each that ended, when.
        forecasts: in the order in which they were made.
        outcome: None as long as something has not ended.
        fleet: attempts that ran side by side, from each moment on.
        spreads: distributions of runtimes.
        warnings: when, which danger, and the sentence.
        plan: the one that was confirmed last; None if none was.
    """

    phase: str
    began: datetime
    size: int
    ended: tuple[datetime, ...]
    forecasts: tuple[Foresight, ...]
    outcome: Outcome | None
    fleet: tuple[tuple[datetime, int], ...]
    spreads: tuple[Spread, ...]
    warnings: tuple[tuple[datetime, str, str], ...]
    plan: Plan | None


def hindsight(challenge: Challenge, ledger: Ledger, phase: str, now: datetime) -> Hindsight | None:
    """What was forecast of a phase and what came; None if nothing was ever started or forecast."""
    past = history(challenge, ledger, phase)
    plans = confirmed_plans(ledger, phase)
    recorded = [(each.time, each.event) for each in ledger.events(ForecastMade) if isinstance(each.event, ForecastMade)]
    forecasts = [_recorded(event, at, past) for at, event in recorded if event.phase == phase]
    forecasts += [_planned(confirmed, past) for confirmed in plans]
    if not forecasts or not past.attempts:
        return None
    catalogue = used(challenge)
    prices = {name: float(offer.price) for name, offer in catalogue.offers.items()}
    ended = tuple(sorted(row.ended_at for row in past.evaluations if row.ended_at is not None))
    outcome = None
    if past.finished:
        # Forecasts count a boot for each that has a machine to itself; what came is told alike.
        boots = {name: offer.boot_of_each_hours for name, offer in catalogue.offers.items()}
        hours = [
            (row, seconds_taken(row, now) / 3600 + boots.get(row.machine_type, 0.0))
            for row in (*past.attempts, *past.aside)
        ]
        usd = dollars(sum(taken * prices.get(row.machine_type, 0.0) for row, taken in hours))
        outcome = Outcome(sum(taken for _, taken in hours), usd, ended[-1])
    warnings = [
        (each.time, each.event.danger, each.event.sentence)
        for each in ledger.events(CampaignWarned)
        if isinstance(each.event, CampaignWarned) and each.event.phase == phase
    ]
    return Hindsight(
        phase,
        min(row.planned_at for row in past.attempts),
        len(past.evaluations),
        ended,
        tuple(sorted(forecasts, key=lambda each: each.at)),
        outcome,
        _side_by_side(past, now),
        tuple(
            Spread(group.name, name, hours)
            for group in groups(challenge, past, catalogue, now, plans[-1].plan.classes if plans else ())
            if not group.borrowed
            for name, hours in runtime_quantiles(group).items()
        ),
        tuple(warnings),
        plans[-1].plan if plans else None,
    )


def _recorded(event: ForecastMade, at: datetime, past: History) -> Foresight:
    # Between the pilot and the run the operator reads and sleeps; no forecast knows for how long.
    idle = _idle_after(past, at) if event.moment == "pilot" else timedelta(0)
    low, mid, high = (moment + idle for moment in event.ends)
    return Foresight(
        event.moment, at, at + idle, event.ended, event.size, event.confidence, event.hours, event.usd, (low, mid, high)
    )


def _planned(confirmed: Confirmed, past: History) -> Foresight:
    plan, start = confirmed.plan, confirmed.at + _idle_after(past, confirmed.at)
    low, mid, high = (
        start + timedelta(hours=max(hours, 0.0))
        for hours in (plan.end_hours.low, plan.end_hours.mid, plan.end_hours.high)
    )
    return Foresight(
        "plan",
        confirmed.at,
        start,
        plan.ended,
        plan.evaluations,
        plan.confidence,
        (plan.hours.low, plan.hours.mid, plan.hours.high),
        (plan.cost.low, plan.cost.mid, plan.cost.high),
        (low, mid, high),
    )


def _idle_after(past: History, at: datetime) -> timedelta:
    later = [row.planned_at - at for row in past.attempts if row.planned_at >= at]
    return min(later, default=timedelta(0))


def _side_by_side(past: History, now: datetime) -> tuple[tuple[datetime, int], ...]:
    changes: list[tuple[datetime, int]] = []
    for row in (*past.attempts, *past.aside):
        began = row.started_at or row.submitted_at or row.planned_at
        changes.append((began, 1))
        changes.append((began + timedelta(seconds=seconds_taken(row, now)), -1))
    running, points = 0, dict[datetime, int]()
    for moment, change in sorted(changes):
        running += change
        points[moment] = running  # of all that happens in one moment, what it comes to
    return tuple(points.items())


def held(low: float, high: float, truth: float) -> bool:
    """Whether an interval held the truth, as far as it was printed: to a thousandth."""
    slack = 1e-3 * max(abs(truth), 1e-9)
    return low - slack <= truth <= high + slack


def notable(forecasts: Sequence[Foresight]) -> tuple[Foresight, ...]:
    """Those that are shown: the pilot's and the plan's last ones, and those nearest to each quarter."""
    last = {each.moment: each for each in forecasts if each.moment != "run"}
    running = [each for each in forecasts if each.moment == "run"]
    nearest = {
        place: min(running, key=lambda each: abs(each.ended / max(each.size, 1) - place)).at
        for place in (0.25, 0.5, 0.75)
        if running
    }
    some = [each for each in running if each.at in set(nearest.values())]
    return tuple(sorted([*last.values(), *some], key=lambda each: each.at))
