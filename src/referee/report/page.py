"""The page: everything in one HTML file that needs no network, no script and no second file."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from referee import __version__
from referee.report.data import ReportData, Run
from referee.report.templating import environment
from referee.rulings import PAST
from referee.scoring.confirmation import machines_in_words
from referee.scoring.leaderboard import NOT_SCORED, SEALED, Leaderboard, Row
from referee.units import format_duration, format_size, format_usd

_BLAME_WORDS = {
    "none": "valid results",
    "submission": "ended by the submission",
    "host": "lost to the host",
    "ambiguous": "could not be told",
}


_STANDINGS = 40  # more than this many lines are not read; the JSON holds all of them
_GROUPED = 10
_ODD = 100


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the board's table: a row, or the constant-0.5 line at its place among them."""

    row: Row | None
    score: float
    share: float


def render_report(data: ReportData) -> str:
    """The report as one HTML document. The same data gives the same bytes."""
    from referee.report import foresight, pictures  # noqa: PLC0415 - a second that only a report pays

    standings = data.analysis.standings if data.analysis else None
    drawn = {
        "scores": pictures.score_distribution(data.board),
        "shake_up": pictures.shake_up(data.board, data.shake_up, data.analysis.groups if data.analysis else ()),
        "certainty": pictures.certainty(standings) if standings else None,
        "groups": _groups_picture(data),
        "reliability": pictures.reliability(data.analysis.reliability) if data.analysis else None,
        "failures": pictures.failures(data.failures),
        "runtimes": pictures.runtimes(data.runs, data.wall_limit.total_seconds()) if data.runs else None,
        "memory": pictures.memory(data.runs, data.memory_limit_bytes) if data.runs else None,
    }
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            board=data.board,
            lines=_lines(data.board),
            moves={move.submission: move.moved for move in data.shake_up.moves} if data.shake_up else {},
            shown_standings=_STANDINGS,
            shown_odd=_ODD,
            grouped=_grouped(data),
            named=any(row.name for row in data.board.rows),
            sealed=any(left.reason == SEALED for left in data.board.unscored),
            unfinished=_unfinished(data),
            # SVG is drawn from numbers and our own words alone; nothing of a submission's text is in it.
            pictures={name: Markup(svg) for name, svg in drawn.items() if svg},  # noqa: S704
            as_of=data.as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            runtime=_summary(data.runs),
            version=__version__,
            foresight=Markup(foresight.section(data.hindsight)) if data.hindsight else "",  # noqa: S704 - a template's
            blame_words=_BLAME_WORDS,
            past=PAST,
        )
    )


def _unfinished(data: ReportData) -> str:
    """What is missing of a final board, as the end of a sentence; empty if nothing is."""
    if data.board.complete:
        return ""
    reasons = [left.reason for left in data.board.unscored]
    found = []
    if data.ended < data.total:
        found.append(f"{data.total - data.ended:,} of {data.total:,} evaluations have not ended")
    if waiting := reasons.count(NOT_SCORED):
        found.append(f"{waiting:,} valid result{' was' if waiting == 1 else 's were'} not scored yet")
    if SEALED in reasons:
        found.append("scores are sealed until release")
    return ", and ".join(found)


def _groups_picture(data: ReportData) -> str | None:
    from referee.report import pictures  # noqa: PLC0415 - as above

    if not data.analysis or not data.board.rows:
        return None
    best = [row.submission for row in data.board.rows[:_GROUPED]]
    return pictures.groups(data.analysis.groups, data.board.metric, best)


@functools.cache
def _environment() -> Environment:
    made = environment()
    made.filters |= {
        "score": lambda value: "" if value is None else f"{value:.5f}",
        "duration": format_duration,
        "size": format_size,
        "usd": _usd,
        "hours": lambda value: f"{value:,.2f}" if value < 10 else f"{value:,.0f}",
        "exact_hours": lambda value: f"{float(value):,.3f}",
        "spoken": lambda name: str(name).replace("_", " "),
        "change": _change,
        "machines_in_words": machines_in_words,
        "count_of": lambda found, noun: f"{len(found):,} {noun}{'' if len(found) == 1 else 's'}",
    }
    return made


def _lines(board: Leaderboard) -> list[_Line]:
    scores = [row.score for row in board.rows]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    if board.reference is not None and not board.greater_is_better:
        # Beside one overconfident entry all other bars would vanish; a full bar says "twice the constant 0.5 or more".
        low, high = 0.0, min(max(high, board.reference.score), 2 * board.reference.score) or 1.0
    span = (high - low) or 1.0

    def line(row: Row | None, score: float) -> _Line:
        return _Line(row, score, round(min(max((score - low) / span, 0.0), 1.0), 4))

    lines = [line(row, row.score) for row in board.rows]
    if board.reference is not None:
        lines.insert(board.reference.rank - 1, line(None, board.reference.score))
    return lines


def _summary(runs: tuple[Run, ...]) -> dict[str, Any] | None:
    if not runs:
        return None
    walls = sorted(run.wall_seconds for run in runs)
    return {
        "median": walls[len(walls) // 2],
        "longest": walls[-1],
        "memory": max(run.peak_memory_bytes for run in runs),
        "preparation": sorted(run.preparation_seconds for run in runs)[len(runs) // 2],
    }


def _usd(value: Decimal | None) -> str:
    return "no price" if value is None else format_usd(value)


def _change(moved: int | None) -> str:
    """How a submission moved from the public to the private board, for a narrow column."""
    if moved is None:
        return ""
    return f"▲ {moved}" if moved > 0 else f"▼ {-moved}" if moved < 0 else "="


def _grouped(data: ReportData) -> list[dict[str, Any]]:
    """For each metadata column its groups, and the scores on them of the best entries."""
    if data.analysis is None:
        return []
    best = [row.submission for row in data.board.rows[:_GROUPED]]
    columns = dict.fromkeys(group.column for group in data.analysis.groups)
    return [
        {
            "column": column,
            "groups": [group for group in data.analysis.groups if group.column == column],
            "rows": [
                (name, [group.scores.get(name) for group in data.analysis.groups if group.column == column])
                for name in best
            ],
        }
        for column in columns
    ]
