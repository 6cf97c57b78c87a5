"""The pictures of a forecast: burn-up with its fans, cost against deadline, the fleet over time, runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import altair as alt

from referee.planning.plan import DeadlineCost
from referee.prospects.hindsight import Foresight, Hindsight, Spread, notable
from referee.report.pictures import INK, LINE, QUIET, VALID, WIDTH, Drawing

_UNITS = ((24.0, "days"), (1.0, "hours"), (1 / 60, "minutes"), (1 / 3600, "seconds"))
_MOST_POINTS = 400


def burn_up(seen: Hindsight) -> str | None:
    """Evaluations ended over time; from each forecast a fan to where it saw the end. None if nothing has ended."""
    if not seen.ended:
        return None
    fans = _drawn(notable(seen.forecasts))
    last = max([seen.ended[-1], *(fan.ends[2] for fan in fans)])
    unit, name = _unit((last - seen.began).total_seconds() / 3600)

    def at(moment: datetime) -> float:
        return (moment - seen.began).total_seconds() / 3600 / unit

    drawing = Drawing("burn-up")
    steps = _thinned([{"at": 0.0, "ended": 0}, *({"at": at(m), "ended": n + 1} for n, m in enumerate(seen.ended))])
    x = alt.X("at:Q", title=f"{name} since the first attempt", scale=alt.Scale(domainMin=0, nice=False))
    y = alt.Y("ended:Q", title="evaluations ended", scale=alt.Scale(domain=[0, seen.size]))
    layers: list[Any] = []
    for fan in fans:
        cone = [
            {"at": at(fan.begins), "to": at(fan.begins), "ended": fan.ended},
            {"at": at(fan.ends[0]), "to": at(fan.ends[2]), "ended": fan.size},
        ]
        layers.append(
            drawing.chart(_between(cone))
            .mark_area(color=QUIET, opacity=0.25, orient="horizontal")
            .encode(x=x, x2="to:Q", y=y)
        )
        middle = [{"at": at(fan.begins), "ended": fan.ended}, {"at": at(fan.ends[1]), "ended": fan.size}]
        layers.append(drawing.chart(middle).mark_line(color=QUIET, strokeDash=[4, 4], strokeWidth=1).encode(x=x, y=y))
        start = [{"at": at(fan.begins), "ended": fan.ended, "label": fan.moment}]
        layers.append(drawing.chart(start).mark_circle(color=LINE, size=50, opacity=1).encode(x=x, y=y))
        if fan.moment != "run":
            layers.append(
                drawing.chart(start)
                .mark_text(
                    color=INK,
                    align="left" if fan.moment == "plan" else "right",
                    dx=9 if fan.moment == "plan" else -9,
                    dy=9 if fan.moment == "plan" else -9,
                )
                .encode(x=x, y=y, text="label:N")
            )
    layers.append(drawing.chart(steps).mark_line(color=VALID, interpolate="step-after", strokeWidth=2).encode(x=x, y=y))
    return drawing.svg(alt.layer(*layers).properties(width=WIDTH, height=260))


def cost_against_deadline(points: Sequence[DeadlineCost], deadline_days: float | None) -> str | None:
    """What the whole costs for other deadlines, with the machines that it takes; None without prices."""
    kept = [point for point in points if point.usd is not None]
    if len(kept) < 2:
        return None
    drawing = Drawing("deadline")
    unit, name = _unit(max(point.days for point in kept) * 24)
    rows: list[dict[str, Any]] = [
        {"at": point.days * 24 / unit, "usd": point.usd, "label": f"{point.machines} machines"} for point in kept
    ]
    dollars = [float(row["usd"]) for row in rows]
    # At least a tenth of the cost high: a cliff of one percent would be a false alarm.
    middle, half = (min(dollars) + max(dollars)) / 2, max((max(dollars) - min(dollars)) * 0.6, 0.05 * max(dollars))
    base = drawing.chart(rows).encode(
        x=alt.X(
            "at:Q",
            title=f"deadline, {name} from the plan",
            scale=alt.Scale(domain=[0, 1.12 * max(float(row["at"]) for row in rows)], nice=False),
        ),
        y=alt.Y(
            "usd:Q",
            title="US dollars in all",
            scale=alt.Scale(domain=[max(middle - half, 0), middle + half], nice=True),
        ),
    )
    layers: list[Any] = [
        base.mark_line(color=VALID, strokeWidth=2),
        base.mark_circle(color=VALID, size=50, opacity=1),
        base.mark_text(color=QUIET, dx=4, dy=-10, align="left").encode(text="label:N"),
    ]
    if deadline_days is not None:
        mark = drawing.chart([{"at": deadline_days * 24 / unit}])
        layers.append(mark.mark_rule(color=LINE, strokeDash=[6, 3], strokeWidth=2).encode(x="at:Q"))
    return drawing.svg(alt.layer(*layers).properties(width=WIDTH - 60, height=200))


def fleet(points: Sequence[tuple[float, float]], hours_are: str) -> str | None:
    """Attempts that run side by side, from each moment (in hours) on; None where there are none."""
    if len(points) < 2:
        return None
    unit, name = _unit(points[-1][0])
    drawing = Drawing("fleet")
    rows = _thinned([{"at": hours / unit, "running": number} for hours, number in points])
    chart = (
        drawing.chart(rows)
        .mark_area(color=VALID, opacity=0.5, interpolate="step-after", line={"color": VALID})
        .encode(
            x=alt.X(
                "at:Q",
                title=f"{name} {hours_are}",
                scale=alt.Scale(domainMin=0, nice=False),
                axis=alt.Axis(tickCount=10),
            ),
            y=alt.Y("running:Q", title="attempts side by side", axis=alt.Axis(tickMinStep=1), stack=None),
        )
    )
    return drawing.svg(chart.properties(width=WIDTH, height=120))


def spreads(found: Sequence[Spread]) -> str | None:
    """Runtimes of each kind on each machine type: 5 to 95%, the middle half, and the median."""
    if not found:
        return None
    unit, name = _unit(max(each.hours[-1] for each in found))
    drawing = Drawing("spreads")
    rows = [
        {"what": f"{each.kind} on {each.machine_type}"}
        | dict(zip(("p5", "p25", "p50", "p75", "p95"), (hours / unit for hours in each.hours), strict=True))
        for each in found
    ]
    base = drawing.chart(rows).encode(y=alt.Y("what:N", title=None, sort=None))
    scale = alt.Scale(domainMin=0)
    title = f"{name} of an evaluation, start-up included"
    chart = alt.layer(
        base.mark_rule(color=QUIET, strokeWidth=2).encode(x=alt.X("p5:Q", title=title, scale=scale), x2="p95:Q"),
        base.mark_bar(color=VALID, height={"band": 0.4}).encode(x=alt.X("p25:Q", title=title), x2="p75:Q"),
        base.mark_tick(color=INK, thickness=2, height=18).encode(x=alt.X("p50:Q", title=title)),
    )
    return drawing.svg(chart.properties(width=WIDTH - 160, height=alt.Step(34)))


def past_fleet(seen: Hindsight) -> tuple[tuple[float, float], ...]:
    """The attempts that ran side by side, in hours since the first."""
    return tuple(((moment - seen.began).total_seconds() / 3600, float(number)) for moment, number in seen.fleet)


def _drawn(fans: Sequence[Foresight]) -> list[Foresight]:
    """More than one fan from the running campaign would hide the others: the one in the middle."""
    running = [fan for fan in fans if fan.moment == "run"]
    return [fan for fan in fans if fan.moment != "run"] + running[len(running) // 2 : len(running) // 2 + 1]


def _unit(hours: float) -> tuple[float, str]:
    return next(((unit, name) for unit, name in _UNITS if hours >= 2 * unit), _UNITS[-1])


def _between(cone: Sequence[dict[str, float]], points: int = 12) -> list[dict[str, float]]:
    """Points along a fan's two edges: an area between only two rows is not drawn to its corners by every reader."""
    first, last = cone
    return [
        {key: first[key] + (last[key] - first[key]) * place / points for key in first} for place in range(points + 1)
    ]


def _thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) <= _MOST_POINTS:
        return list(rows)
    places = [round(place * (len(rows) - 1) / (_MOST_POINTS - 1)) for place in range(_MOST_POINTS)]
    return [rows[place] for place in dict.fromkeys(places)]
