"""Forecasts in the report: what was expected beside what came; and a plan with its pictures as a page of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from referee import __version__
from referee.planning.tables import plan_table
from referee.prospects.hindsight import Foresight, Hindsight, Outcome, held, notable
from referee.prospects.proposal import Proposal
from referee.report import foresight_pictures as pictures
from referee.report.templating import environment
from referee.units import format_duration, format_hours, format_usd

_MOMENTS = {"pilot": "after the pilot", "plan": "the plan", "run": "while it ran"}


@dataclass(frozen=True, slots=True)
class _Row:
    """One forecast in words; `kept` says of hours, cost and end whether the interval held what came."""

    moment: str
    at: str
    ended: str
    confidence: str
    hours: str
    usd: str
    end: str
    kept: tuple[bool | None, bool | None, bool | None]


def section(seen: Hindsight) -> str:
    """The report's part on forecasts, as HTML."""
    rows = [_row(each, seen) for each in notable(seen.forecasts)]
    drawn = {
        "burn_up": pictures.burn_up(seen),
        "deadline": pictures.cost_against_deadline(seen.plan.by_deadline, _days(seen.plan.deadline_hours))
        if seen.plan
        else None,
        "fleet": pictures.fleet(pictures.past_fleet(seen), "since the first attempt"),
        "spreads": pictures.spreads(seen.spreads),
    }
    return (
        environment()
        .get_template("foresight.html.j2")
        .render(
            rows=rows,
            outcome=_outcome(seen.outcome, seen.began) if seen.outcome else None,
            warnings=[(_clock(at), danger, sentence) for at, danger, sentence in seen.warnings],
            priced=any(each.usd[2] > 0 for each in seen.forecasts),
            # SVG is drawn from numbers and our own words alone.
            pictures={name: Markup(svg) for name, svg in drawn.items() if svg},  # noqa: S704
        )
    )


def render_plan(made: Proposal) -> str:
    """A proposed plan as one HTML document that needs nothing else."""
    plan = made.plan
    drawn = {
        "deadline": pictures.cost_against_deadline(plan.by_deadline, _days(plan.deadline_hours)),
        "fleet": pictures.fleet(made.rehearsal.fleet, "from the start, on average of the rehearsals")
        if made.rehearsal
        else None,
        "spreads": pictures.spreads(made.spreads),
    }
    return (
        environment()
        .get_template("plan.html.j2")
        .render(
            plan=plan,
            table=plan_table(plan),
            made_at=_clock(plan.made_at) if plan.made_at else "",
            version=__version__,
            pictures={name: Markup(svg) for name, svg in drawn.items() if svg},  # noqa: S704 - see above
        )
    )


def _row(each: Foresight, seen: Hindsight) -> _Row:
    came = seen.outcome
    kept: tuple[bool | None, bool | None, bool | None] = (None, None, None)
    if came is not None:
        kept = (
            held(each.hours[0], each.hours[2], came.hours),
            held(float(each.usd[0]), float(each.usd[2]), float(came.usd)) if each.usd[2] > 0 else None,
            each.ends[0] <= came.end <= each.ends[2],
        )
    return _Row(
        _MOMENTS[each.moment],
        each.at.astimezone(UTC).strftime("%m-%d %H:%M:%S"),
        f"{each.ended:,} of {each.size:,}",
        f"{each.confidence:.0%}",
        f"{_machine_time(each.hours[0])} to {_machine_time(each.hours[2])}",
        f"{format_usd(each.usd[0])} to {format_usd(each.usd[2])}",
        f"{_since(each.ends[0], seen.began)} to {_since(each.ends[2], seen.began)}",
        kept,
    )


def _outcome(came: Outcome, began: datetime) -> dict[str, str]:
    return {"hours": _machine_time(came.hours), "usd": format_usd(came.usd), "end": _since(came.end, began)}


def _machine_time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 10 else format_hours(hours)


def _since(moment: datetime, began: datetime) -> str:
    return format_duration(max((moment - began).total_seconds(), 0.0))


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _days(hours: float | None) -> float | None:
    return hours / 24 if hours is not None else None
