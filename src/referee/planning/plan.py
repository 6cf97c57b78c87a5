"""The plan: how many of which machines, which evaluations go there, what it will cost and when it will end.

A frozen model that is written to a file, shown, confirmed by the operator, executed, and kept in the bundle.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from referee.challenge import Frozen
from referee.errors import ConfigurationError
from referee.planning.classes import NeedClass
from referee.units import Usd


class Range(Frozen):
    """An estimate with the interval that holds the truth with probability `confidence`."""

    low: float
    mid: float
    high: float
    confidence: float


class UsdRange(Frozen):
    """A range in US dollars."""

    low: Usd
    mid: Usd
    high: Usd
    confidence: float


class PoolPlan(Frozen):
    """Machines of one type in one market, and what they do."""

    machine_type: str
    market: Literal["on_demand", "spot"]
    machines: int = Field(ge=0)
    evaluations: int
    hours: float
    usd: Usd
    usd_per_hour: Usd
    usd_per_evaluation: Usd
    price_date: date | None
    price_source: str
    quota_pool: str | None


class SpotLosses(Frozen):
    """What the plan believes of the rate at which spot machines are taken away: a gamma law of the losses an hour."""

    losses: float
    hours: float


class DeadlineCost(Frozen):
    """What the whole would cost with another deadline, and on how many machines; None where no plan keeps it."""

    days: float
    usd: float | None
    machines: int | None


class Plan(Frozen):
    """What the operator confirms and `run` executes. Hours count from the moment of planning.

    Attributes:
        made_at: the moment of planning.
        evaluations, started, ended: of the whole phase, at the time of planning.
        pools: the machines to rent.
        assignment: for each group of evaluations, how many of those that wait go to each machine type.
        hours, cost, end_hours: forecasts; hours and cost include what is done, the pilot too.
        bound_usd: what waits cannot cost less (linear program, same coefficients, same reserve).
        price_of_confidence_usd: what the reserve costs against a plan with even odds.
        drivers: what the width of the forecast comes from.
        changes: what other machines or another deadline would change.
        by_deadline: what other deadlines would cost; empty where machines cost nothing.
        spot_losses: None where spot capacity was not asked for.
        classes: of measured need, into which kinds are divided; empty where kinds are assigned as wholes.
    """

    version: Literal[1] = 1
    made_at: datetime | None = None
    challenge: str
    phase: str
    evaluations: int
    started: int
    ended: int
    confidence: float
    deadline_hours: float | None
    budget: Usd | None
    pools: tuple[PoolPlan, ...]
    assignment: dict[str, dict[str, int]]
    hours: Range
    cost: UsdRange
    end_hours: Range
    probability_in_time: float | None
    probability_in_budget: float | None
    bound_usd: Usd
    gap: float
    price_of_confidence_usd: Usd
    drivers: tuple[str, ...]
    one_more_day: str
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    by_deadline: tuple[DeadlineCost, ...] = ()
    spot_losses: SpotLosses | None = None
    classes: tuple[NeedClass, ...] = ()


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan as JSON."""
    path.write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigurationError: if there is none, or it is not one of this version.
    """
    try:
        return parse_plan(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigurationError(f"There is no plan at {path}.", hint="Make one with `referee plan`.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a plan.", hint="Make one with `referee plan`.") from error


def parse_plan(text: str, where: str) -> Plan:
    """Read a plan's text; `where` it stands is said in errors.

    Raises:
        ConfigurationError: if it is not one of this version.
    """
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise ConfigurationError(
            f"{where} is not a plan of this version.", hint="Make one with `referee plan`."
        ) from error
