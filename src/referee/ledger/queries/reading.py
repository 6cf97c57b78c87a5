"""From a statement's columns to typed rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection, Select

from referee.attempts import Measurements
from referee.challenge import Limits, MetricChoice
from referee.ledger.chain import parse_time
from referee.ledger.store import Ledger
from referee.rulings import Ruling
from referee.verdicts import Verdict

R = TypeVar("R")

# What the columns of these names hold is text; the rows have it typed.
_TYPED: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(
        (
            "planned_at",
            "submitted_at",
            "started_at",
            "ended_at",
            "requested_at",
            "stopped_at",
            "finished_at",
            "ruled_at",
            "staged_at",
            "closed_at",
        ),
        parse_time,
    ),
    **dict.fromkeys(("verdict", "last_verdict"), Verdict),
    "measurements": Measurements.model_validate_json,
    "value": float,
    "ruling": Ruling,
    **dict.fromkeys(("scoring", "metric_choice"), MetricChoice.model_validate_json),
    "limits": Limits.model_validate_json,
    "submissions": lambda text: tuple(json.loads(text)),
}


def read_rows(ledger: Ledger, query: Select[Any], kind: type[R]) -> tuple[R, ...]:
    """What `query` finds, as rows of `kind`, whose fields are named like the columns."""
    with ledger.read() as connection:
        return tuple(read_each(connection, query, kind))


def read_each(connection: Connection, query: Select[Any], kind: type[R]) -> Iterator[R]:
    """Likewise, within a reading transaction that the caller holds."""
    found = connection.execute(query)
    columns = [(name, _TYPED.get(name)) for name in found.keys()]  # noqa: SIM118 - a result is not a mapping
    for row in found:
        values = {
            name: value if typed is None or value is None else typed(value)
            for (name, typed), value in zip(columns, row, strict=True)
        }
        yield kind(**values)
