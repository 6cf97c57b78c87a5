"""What a person or a script reads: tables, JSON, and errors as one sentence and one hint."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from referee.errors import ConfigurationError, RefereeError

# A pipe or a file has no width of its own; tables in it should not be folded to that of an old terminal.
_WIDTH = None if sys.stdout.isatty() else 140
out = Console(highlight=False, width=_WIDTH)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document for a script to read."""
    print_document(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own, for a script to read line by line."""
    print_document(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_document(text: str) -> None:
    """Print JSON as it is, but for characters that could steer a terminal or turn its text round: JSON's own escapes.

    `json` leaves DEL, the control characters from U+0080 on, lone surrogates and marks of direction as they are. Where
    the output is not Unicode, what is beyond ASCII is escaped too.
    """
    lines = text.split("\n")
    plain = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    whole = [line if line.isprintable() and (plain or line.isascii()) else None for line in lines]
    sys.stdout.write(
        "\n".join(
            "".join(_escaped(c, plain=plain) for c in line) if kept is None else kept
            for line, kept in zip(lines, whole, strict=True)
        )
    )


def _escaped(character: str, *, plain: bool) -> str:
    if character.isprintable() and (plain or character.isascii()):
        return character
    code = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[place : place + 4]}" for place in range(0, len(code), 4))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | None = None) -> None:
    """Print a plain table; a column whose name ends with `>` is set to the right."""
    table = Table(
        title=None if title is None else Text(inert(title)),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for column in columns:
        right = column.endswith(">")
        table.add_column(Text(inert(column.removesuffix(">"))), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(inert(cell)) for cell in row))
    out.print(table)


class Facts(Protocol):
    """A table with its notes; a column whose name starts with `#` holds numbers."""

    @property
    def title(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> tuple[tuple[str, ...], ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


def print_facts(table: Facts) -> None:
    """Print a table of the planner; columns in which nothing stands are left out, notes follow line by line."""
    shown = [place for place in range(len(table.columns)) if any(row[place] for row in table.rows)]
    names = [table.columns[place] for place in shown]
    columns = [name.removeprefix("#") + ">" if name.startswith("#") else name for name in names]
    print_table(columns, [[row[place] for place in shown] for row in table.rows], title=table.title)
    for line in table.notes:
        say(line)


def confirm(question: str, yes: bool) -> None:
    """Ask the operator; `yes` answers for a script.

    Raises:
        ConfigurationError: if the answer is no, or nobody is there to ask.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError(f"{question} Nobody is here to answer.", hint="Say yes with -y.")
    try:
        answer = err.input(f"{escape(inert(question))} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in {"y", "yes"}:
        raise ConfigurationError("Nothing was started.", hint="Answer y to go on.")


def inert(text: str) -> str:
    """Text that may be a stranger's, with every control character and mark of direction escaped.

    It cannot steer a terminal. Everything printed here goes through it: messages quote files of unknown origin.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def say(text: str = "") -> None:
    """Print a line as it is, without markup."""
    out.print(inert(text), markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line for the person, not for the script, to standard error."""
    err.print(inert(text), markup=False, soft_wrap=True, style="dim")


def print_error(error: RefereeError, *, prefix: str = "Error") -> None:
    """Print what happened and what to do next."""
    err.print(f"[bold red]{escape(prefix)}:[/] {escape(inert(error.message))}", soft_wrap=True)
    if error.hint:
        err.print(escape(inert(error.hint)), soft_wrap=True)
