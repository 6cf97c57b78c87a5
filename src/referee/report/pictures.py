"""The pictures of a report, drawn by Vega-Lite without a browser or a network, as SVG that follows the page's colours.

Colours are drawn as place holders and then replaced by the page's CSS variables, so that one picture serves light,
dark and paper.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from referee.report.data import Failure, Run
from referee.scoring.analysis import Group, ReliabilityPoint
from referee.scoring.leaderboard import Leaderboard
from referee.scoring.shakeup import ShakeUp
from referee.scoring.standings import Standings
from referee.verdicts import Blame, Verdict, blame

WIDTH = 780
_INK, _QUIET, _GRID, _LINE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_BY_BLAME = {
    Blame.NONE: "#0a0b11",
    Blame.SUBMISSION: "#0a0b12",
    Blame.HOST: "#0a0b13",
    Blame.AMBIGUOUS: "#0a0b14",
}
_VARIABLES = {
    _INK: "--ink",
    _QUIET: "--quiet",
    _GRID: "--grid",
    _LINE: "--line",
    **{colour: f"--{whose.value}" for whose, colour in _BY_BLAME.items()},
}
INK, QUIET, LINE, VALID = _INK, _QUIET, _LINE, _BY_BLAME[Blame.NONE]
# Told apart without colours too: a shape, and the colour that goes with it.
_SHAPES = (
    ("circle", _BY_BLAME[Blame.NONE]),
    ("triangle-up", _BY_BLAME[Blame.SUBMISSION]),
    ("cross", _BY_BLAME[Blame.HOST]),
    ("square", _BY_BLAME[Blame.AMBIGUOUS]),
    ("diamond", _LINE),
)
_BINS = 30
_STANDINGS = 40
_GROUPS = 40
_ABREAST = 5


def score_distribution(board: Leaderboard) -> str | None:
    """Histogram of the scores with the constant-0.5 line; None if there are no scores.

    Outliers are gathered in the last bar, because one overconfident submission would flatten all others.
    """
    drawing = Drawing("scores")
    scores = [row.score for row in board.rows]
    if not scores:
        return None
    reference = board.reference.score if board.reference else None
    edges, counts, gathered = _histogram(scores, reference)
    bars = [{"from": a, "to": b, "count": c} for a, b, c in zip(edges, edges[1:], counts, strict=False)]
    axis = f"{board.metric}" + (f" (the last bar holds all beyond {edges[-2]:.3g})" if gathered else "")
    layers: list[Any] = [
        drawing.chart(bars)
        .mark_bar(color=_BY_BLAME[Blame.NONE], binSpacing=1)
        .encode(
            x=alt.X(
                "from:Q",
                title=axis,
                bin="binned",
                axis=alt.Axis(tickCount=8),
                scale=alt.Scale(domain=[edges[0], edges[-1]], nice=False),
            ),
            x2="to:Q",
            y=alt.Y("count:Q", title="submissions", axis=_whole(max(counts))),
        )
    ]
    if reference is not None and edges[0] <= reference <= edges[-1]:
        layers += _rule(drawing, reference, "constant 0.5")
    return drawing.svg(alt.layer(*layers).properties(width=WIDTH, height=200))


def shake_up(board: Leaderboard, found: ShakeUp | None = None, groups: Sequence[Group] = ()) -> str | None:
    """Public against private score, one point for each submission; None if none has both.

    Beside it, where the items have groups, the same for the private score on each group's files alone. Points are told
    apart by colour and by shape, so that the picture can be read without colours: by the zone on top of either board
    (`found`), and by the first metadata column of few groups.
    """
    points = [row for row in board.rows if row.public_score is not None]
    if not points:
        return None
    drawing = Drawing("shake-up")
    zones = _zones(found)
    rows = [
        {"public": row.public_score, "private": row.score, "kind": zones.get(row.submission, "others")}
        for row in points
    ]
    kinds = [kind for kind in (*_zone_names(found), "others") if any(row["kind"] == kind for row in rows)]
    panels = [_against(drawing, rows, kinds, board, f"{board.metric} on {board.phase}", "on both boards")]
    column = next(
        (name for name, many in Counter(one.column for one in groups).items() if 1 < many <= len(_SHAPES)), None
    )
    if column is not None:
        mine = [group for group in groups if group.column == column]
        labels = {group.value: f"{group.value or '(empty)'}, {group.items} files" for group in mine}
        rows = [
            {"public": row.public_score, "private": value, "kind": labels[group.value]}
            for group in mine
            for row in points
            if (value := group.scores.get(row.submission)) is not None
        ]
        title = f"{board.metric} on the files of each group"
        panels.append(_against(drawing, rows, list(labels.values()), board, title, column))
    return drawing.svg(alt.hconcat(*panels, spacing=24).resolve_scale(color="independent", shape="independent"))


def _against(
    drawing: Drawing, rows: Sequence[dict[str, Any]], kinds: Sequence[str], board: Leaderboard, title: str, legend: str
) -> Any:
    """One square of the shake-up: the dashed diagonal, and the points by kind."""
    reference = board.reference.score if board.reference else None
    values = [row[axis] for row in rows for axis in ("public", "private")]
    low, high = min(values), max(values)
    if reference is not None and not board.greater_is_better and high > 4 * reference:
        high = max(2 * reference, sorted(values)[len(values) * 3 // 4])
    margin = 0.05 * ((high - low) or 1.0)
    scale = alt.Scale(domain=[low - margin, high + margin], nice=False, clamp=True, zero=False)
    diagonal = [{"public": at, "private": at} for at in (low - margin, high + margin)]
    x = alt.X("public:Q", title=f"{board.metric} on {board.public_phase}", scale=scale)
    y = alt.Y("private:Q", title=title, scale=scale)
    shown = alt.Legend(title=legend, orient="top", columns=2) if len(kinds) > 1 else None
    used = [_SHAPES[place % len(_SHAPES)] for place in range(len(kinds))]
    colour = alt.Scale(domain=list(kinds), range=[colour for _, colour in used])
    shape = alt.Scale(domain=list(kinds), range=[shape for shape, _ in used])
    return alt.layer(
        drawing.chart(diagonal).mark_line(color=_QUIET, strokeDash=[4, 4]).encode(x=x, y=y),
        drawing.chart(rows)
        .mark_point(size=60 if len(rows) < 200 else 16, opacity=0.8, strokeWidth=1.5)
        .encode(
            x=x,
            y=y,
            color=alt.Color("kind:N", scale=colour, legend=shown),
            shape=alt.Shape("kind:N", scale=shape, legend=shown),
        ),
    ).properties(width=(WIDTH - 150) // 2, height=(WIDTH - 150) // 2)


def _zone_names(found: ShakeUp | None) -> tuple[str, ...]:
    top = found.top if found else 0
    return (f"top {top} on both", f"top {top} before only", f"top {top} after only")


def _zones(found: ShakeUp | None) -> dict[str, str]:
    """Who stands on top of either board, if not everyone does."""
    if found is None or found.top >= len(found.moves):
        return {}
    both, before, after = _zone_names(found)
    return {
        move.submission: both if was and now else before if was else after
        for move in found.moves
        for was, now in ((move.public_rank <= found.top, move.private_rank <= found.top),)
        if was or now
    }


def certainty(found: Standings) -> str | None:
    """Scores with their intervals, best first, coloured by turns of the tie groups; None if nobody is ranked."""
    shown = found.entries[:_STANDINGS]
    if not shown:
        return None
    drawing = Drawing("certainty")
    rows = [
        {"entry": s.entry, "score": s.score, "low": s.score_low, "high": s.score_high, "turn": str(s.tie_group % 2)}
        for s in shown
    ]
    middle = sorted(s.score_high for s in shown)[len(shown) // 2]
    low, high = min(s.score_low for s in shown), max(s.score_high for s in shown)
    # One hopeless entry would press all others into a line.
    high = min(high, middle + 4 * (middle - low)) if found.entries[0].score <= found.entries[-1].score else high
    scale = alt.Scale(domain=[low, high], nice=True, clamp=True, zero=False)
    turns = alt.Scale(domain=["1", "0"], range=[_BY_BLAME[Blame.NONE], _BY_BLAME[Blame.HOST]])
    base = drawing.chart(rows).encode(
        y=alt.Y("entry:N", sort=None, title=None), color=alt.Color("turn:N", scale=turns, legend=None)
    )
    title = f"{found.metric}, {found.level:.0%} intervals"
    chart = alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q"),
        base.mark_circle(size=50, opacity=1).encode(x=alt.X("score:Q", title=title, scale=scale)),
    )
    return drawing.svg(chart.properties(width=WIDTH - 120, height=alt.Step(18)))


def groups(found: Sequence[Group], metric: str, best: Sequence[str]) -> str | None:
    """Scores on the files of each group: a mark for each of the best submissions, a dot for the winner.

    None if there are no groups. Scores beyond the frame are drawn at its edge.
    """
    rows = [
        {
            "group": f"{group.column}: {group.value or '(empty)'}, {group.items}",
            "score": group.scores[name],
            "winner": name == best[0],
        }
        for group in found[:_GROUPS]
        for name in best
        if group.scores.get(name) is not None
    ]
    if not rows:
        return None
    drawing = Drawing("groups")
    scores = sorted(float(str(row["score"])) for row in rows)
    most, reach = scores[-1], 2 * scores[len(scores) * 3 // 4]
    scale = alt.Scale(domain=[min(0.0, scores[0]), min(most, reach) if reach > 0 else most], nice=True, clamp=True)
    x = alt.X("score:Q", title=metric, scale=scale)
    y = alt.Y("group:N", sort=None, title=None, axis=alt.Axis(labelLimit=320))
    chart = alt.layer(
        drawing.chart(rows).mark_tick(color=_QUIET, thickness=2, height=14, opacity=0.6).encode(x=x, y=y),
        drawing.chart([row for row in rows if row["winner"]])
        .mark_circle(color=_BY_BLAME[Blame.NONE], size=70, opacity=1)
        .encode(x=x, y=y),
    )
    return drawing.svg(chart.properties(width=WIDTH - 260, height=alt.Step(24)))


def reliability(found: Mapping[str, Sequence[ReliabilityPoint]]) -> str | None:
    """A reliability diagram for each submission: what it predicted against what was true; None if there is none.

    A point is a bin of equal width, as large as it holds files; on the dashed diagonal predictions are as they say.
    """
    if not found:
        return None
    drawing = Drawing("reliability")
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(values=[0, 0.5, 1], format="~g")
    most = max(point.items for points in found.values() for point in points)
    small = []
    for place, (name, points) in enumerate(found.items()):
        x = alt.X("predicted:Q", title="predicted" if place // _ABREAST == (len(found) - 1) // _ABREAST else None)
        y = alt.Y("true:Q", title="fakes" if place % _ABREAST == 0 else None)
        x, y = x.scale(scale).axis(axis), y.scale(scale).axis(axis)
        rows = [{"predicted": p.mean_prediction, "true": p.share_of_fakes, "files": p.items} for p in points]
        size = alt.Size("files:Q", scale=alt.Scale(domain=[0, most], range=[0, 220]), legend=None)
        diagonal = [{"predicted": 0.0, "true": 0.0}, {"predicted": 1.0, "true": 1.0}]
        small.append(
            alt.layer(
                drawing.chart(diagonal).mark_line(color=_QUIET, strokeDash=[4, 4]).encode(x=x, y=y),
                drawing.chart(rows)
                .mark_line(color=_BY_BLAME[Blame.NONE], strokeWidth=1.5, opacity=0.6)
                .encode(x=x, y=y),
                drawing.chart(rows).mark_circle(color=_BY_BLAME[Blame.NONE], opacity=0.9).encode(x=x, y=y, size=size),
            ).properties(width=104, height=104, title=alt.Title(name, fontSize=12, fontWeight=400, color=_INK))
        )
    return drawing.svg(alt.concat(*small, columns=_ABREAST, spacing=14))


def runtimes(runs: Sequence[Run], limit_seconds: float) -> str | None:
    """Wall time of each submission, by verdict, with the limit where it is near; None if nothing was measured."""
    unit, name = next((u, n) for u, n in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")) if _reaches(runs, u))
    points = [(run.verdict, run.wall_seconds / unit) for run in runs]
    return _strip(points, f"wall time, {name}", limit_seconds / unit, "runtimes")


def memory(runs: Sequence[Run], limit_bytes: int) -> str | None:
    """Peak memory of each submission, by verdict, with the limit where it is near; None if nothing was measured."""
    points = [(run.verdict, run.peak_memory_bytes / 2**20) for run in runs]
    return _strip(points, "peak memory, MiB", limit_bytes / 2**20, "memory")


def failures(found: Sequence[Failure]) -> str | None:
    """Evaluations that ended without a valid result, by verdict and blame; None if there are none."""
    drawing = Drawing("failures")
    rows = [
        {"verdict": _spoken(f.verdict), "blame": f.blame.value, "count": f.evaluations} for f in found if f.evaluations
    ]
    if not rows:
        return None
    bars = drawing.chart(rows).encode(
        y=alt.Y("verdict:N", sort=None, title=None),
        x=alt.X("count:Q", title="submissions", axis=_whole(max(f.evaluations for f in found))),
    )
    chart = alt.layer(
        bars.mark_bar(height={"band": 0.7}).encode(color=_colours({f.blame for f in found if f.evaluations})),
        bars.mark_text(align="left", dx=4, color=_INK).encode(text="count:Q"),
    )
    return drawing.svg(chart.properties(width=WIDTH - 120, height=alt.Step(26)))


def _strip(points: Sequence[tuple[Verdict, float]], title: str, limit: float, name: str) -> str | None:
    if not points:
        return None
    drawing = Drawing(name)
    largest = max(value for _, value in points)
    rows = [{"verdict": _spoken(v), "blame": blame(v).value, "value": value} for v, value in points]
    order = [_spoken(verdict) for verdict in Verdict]
    layers: list[Any] = [
        drawing.chart(rows)
        .mark_tick(thickness=2, height=16, opacity=0.7)
        .encode(
            x=alt.X("value:Q", title=title, scale=alt.Scale(domainMin=0)),
            y=alt.Y("verdict:N", sort=order, title=None),
            color=_colours({blame(verdict) for verdict, _ in points}),
        )
    ]
    if limit <= 3 * largest:
        layers += _rule(drawing, limit, "limit")
    return drawing.svg(alt.layer(*layers).properties(width=WIDTH - 120, height=alt.Step(28)))


def _colours(present: set[Blame]) -> Any:
    shown = [whose for whose in Blame if whose in present]
    scale = alt.Scale(domain=[whose.value for whose in shown], range=[_BY_BLAME[whose] for whose in shown])
    spoken = "{'none': 'valid', 'submission': 'the submission', 'host': 'the host', 'ambiguous': 'ambiguous'}"
    legend = alt.Legend(title="whose doing", orient="top", labelExpr=f"{spoken}[datum.value]")
    return alt.Color("blame:N", scale=scale, legend=legend)


def _whole(largest: int) -> Any:
    # Vega divides a short axis into halves unless it is told how many ticks there are.
    return alt.Axis(tickMinStep=1, tickCount=min(largest, 6), format=",d")


def _rule(drawing: Drawing, at: float, label: str) -> list[alt.Chart]:
    mark = drawing.chart([{"at": at, "label": label}])
    return [
        mark.mark_rule(color=_LINE, strokeWidth=2, strokeDash=[6, 3]).encode(x="at:Q"),
        mark.mark_text(color=_LINE, align="left", baseline="top", dx=5, fontWeight="bold").encode(
            x="at:Q", y=alt.value(2), text="label:N"
        ),
    ]


def _histogram(scores: Sequence[float], reference: float | None) -> tuple[list[float], list[int], bool]:
    low, high = min(scores), max(scores)
    shown = [*scores, *([] if reference is None else [reference])]
    ordered = sorted(shown)
    middle = ordered[len(ordered) // 2]
    reach = max(ordered[int(0.9 * (len(ordered) - 1))] - low, abs(middle - low), 1e-9)
    top = max(shown)
    gathered = high > low + 2.5 * reach
    if gathered:
        top = low + 2 * reach if reference is None else max(low + 2 * reach, reference)
    low = min(shown)
    span = (top - low) or max(abs(low), 1.0) * 0.1
    bins = min(_BINS, max(8, round(2 * math.sqrt(len(scores)))))
    edges = [low + span * place / bins for place in range(bins + 1 + gathered)]
    counts = [0] * (len(edges) - 1)
    for score in scores:
        counts[min(int((score - low) / span * bins), len(counts) - 1)] += 1
    return edges, counts, gathered


def _reaches(runs: Sequence[Run], unit: float) -> bool:
    return unit == 1.0 or any(run.wall_seconds >= 2 * unit for run in runs)


def _spoken(verdict: Verdict) -> str:
    return verdict.value.replace("_", " ")


class Drawing:
    """One picture in the making: its data stay outside of the chart, which altair would otherwise check row by row."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._datasets: dict[str, list[dict[str, Any]]] = {}

    def chart(self, rows: Sequence[dict[str, Any]]) -> alt.Chart:
        key = f"{self._name}-{len(self._datasets)}"
        self._datasets[key] = list(rows)
        return alt.Chart(alt.NamedData(name=key))

    def svg(self, chart: Any) -> str:
        """The chart as an SVG element that can stand in a page beside others."""
        quiet = {"labelColor": _INK, "titleColor": _QUIET, "labelFontSize": 12, "titleFontSize": 12}
        quiet |= {"titleFontWeight": 400}
        chart = (
            chart.configure(background="transparent", font="sans-serif", padding=4, aria=False)
            .configure_view(stroke=None)
            .configure_axis(**quiet, gridColor=_GRID, domainColor=_GRID, tickColor=_GRID, labelOverlap="greedy")
            .configure_axisY(domain=False, ticks=False)
            .configure_legend(**quiet, symbolType="square", labelLimit=240)
        )
        specification = chart.to_dict() | {"datasets": self._datasets}
        svg: str = vl_convert.vegalite_to_svg(json.dumps(specification))
        svg = re.sub(r'(id="|url\(#)(clip\d+|gradient_\d+)', rf"\1{self._name}-\2", svg)
        for colour, variable in _VARIABLES.items():
            svg = svg.replace(colour, f"var({variable})")
        return svg
