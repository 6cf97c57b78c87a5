"""What can be recorded of pilot, plan and forecasts; the rest is in `events`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from referee.ledger.events import Digest, Event, Instant, Name, Prose
from referee.units import Usd


class PilotDrawn(Event, kind="pilot.drawn", by_controller=True):
    """The evaluations of a pilot, drawn at random under a seed; `most_usd` is what the operator agreed to spend.

    With `smoke_all` every submission of the phase makes its smoke run with it.
    """

    phase: Name
    evaluations: tuple[Name, ...] = Field(min_length=1)
    seed: int
    most_usd: Usd
    smoke_all: bool = False


class PlanConfirmed(Event, kind="plan.confirmed", by_controller=True):
    """The operator confirmed a plan, which is executed from here on; `content` is its file."""

    phase: Name
    digest: Digest
    content: str


class ForecastMade(Event, kind="forecast.made"):
    """What was expected of a phase at a moment: machine hours, cost and end, each low, middle and high.

    Attributes:
        moment: after the pilot, or while the campaign runs.
        started, ended, size: how far the phase was.
        confidence: with which low and high are to hold the truth between them.
    """

    phase: Name
    moment: Literal["pilot", "run"]
    size: int = Field(ge=0)
    started: int = Field(ge=0)
    ended: int = Field(ge=0)
    confidence: float = Field(gt=0, lt=1)
    hours: tuple[float, float, float]
    usd: tuple[Usd, Usd, Usd]
    ends: tuple[Instant, Instant, Instant]


class CampaignWarned(Event, kind="campaign.warned"):
    """The operator was warned that deadline or budget are in danger, or that runtimes drift; with what was proposed."""

    phase: Name
    danger: Literal["deadline", "budget", "drift"]
    sentence: Prose
    proposal: Prose = ""
