"""How an event is applied to the tables: which function is in charge of it, and the few statements that all use.

The statements are built once: building one takes longer than SQLite takes to run it. `KEY` is the row that is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Connection, Row, Select, Table, Update, bindparam, insert, select, update

from referee.challenge import Frozen
from referee.errors import LedgerError
from referee.ledger import events
from referee.ledger.chain import Link, canonical_json
from referee.ledger.schema import EVALUATIONS, PHASES, PROJECTIONS, REJUDGINGS, SCORES, SERIES, SUBMISSIONS

E = TypeVar("E", bound=events.Event)
Apply = Callable[[Connection, Link, Any], None]

_APPLY: dict[type[events.Event], Apply] = {}


def apply(connection: Connection, link: Link, event: events.Event) -> None:
    """Bring the projections from the state before `event` to the state after it.

    Raises:
        LedgerError: if the event does not fit what happened before it.
    """
    function = _APPLY.get(type(event))
    if function is not None:
        function(connection, link, event)


def clear(connection: Connection) -> None:
    """Empty every projection."""
    for table in reversed(PROJECTIONS):
        connection.execute(table.delete())


def contents(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every projection, in the order of the primary keys; for comparing two states."""
    return {
        table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
        for table in PROJECTIONS
    }


def applies(kind: type[E]) -> Callable[[Callable[[Connection, Link, E], None]], Callable[[Connection, Link, E], None]]:
    """Put a function in charge of the events of a kind."""

    def register(function: Callable[[Connection, Link, E], None]) -> Callable[[Connection, Link, E], None]:
        _APPLY[kind] = function
        return function

    return register


def refuse(link: Link, why: str) -> LedgerError:
    """The error to raise where an event does not fit what happened before it."""
    return LedgerError(
        f"The event {link.kind} does not fit what the ledger holds: {why}.",
        hint="Nothing was written. If nobody edited the ledger, this is a defect of Referee: please report it.",
    )


KEY: BindParameter[Any] = bindparam("key")
_INSERT = {table: insert(table) for table in PROJECTIONS}
PHASE = update(PHASES).where(PHASES.c.phase == KEY)
EVALUATION = update(EVALUATIONS).where(EVALUATIONS.c.evaluation == KEY)

PHASE_ROW = select(PHASES).where(PHASES.c.phase == KEY)
EVALUATION_ROW = select(EVALUATIONS).where(EVALUATIONS.c.evaluation == KEY)
SUBMISSION_ROW = select(SUBMISSIONS.c.submission).where(SUBMISSIONS.c.submission == KEY)
SCORED_OF_PHASE = select(SCORES.c.evaluation).join(EVALUATIONS).where(EVALUATIONS.c.phase == KEY).limit(1)
_SAME_EVALUATION = select(EVALUATIONS).where(
    EVALUATIONS.c.submission == bindparam("submission"),
    EVALUATIONS.c.phase == bindparam("phase"),
    EVALUATIONS.c.series == bindparam("series"),
)
SERIES_ROW = select(SERIES).where(SERIES.c.series == KEY)
REJUDGING_ROW = select(REJUDGINGS).where(REJUDGINGS.c.rejudging == KEY)


def add(connection: Connection, table: Table, **values: Any) -> None:
    """Insert a row."""
    connection.execute(_INSERT[table], values)


def change(connection: Connection, statement: Update, key: str | int, **values: Any) -> bool:
    """Whether there was exactly the one row to change that was meant."""
    return connection.execute(statement, {"key": key, **values}).rowcount == 1


def find(connection: Connection, statement: Select[Any], key: str) -> Row[Any] | None:
    """The row that is meant, if there is one."""
    return connection.execute(statement, {"key": key}).first()


def evaluation_of(connection: Connection, submission: str, phase: str, series: str) -> Row[Any] | None:
    """The evaluation of a submission on a phase: the official one, or that of a series."""
    key = {"submission": submission, "phase": phase, "series": series}
    return connection.execute(_SAME_EVALUATION, key).first()


def as_text(model: Frozen) -> str:
    """How a model is kept in a column."""
    return canonical_json(model.model_dump(mode="json"))
