"""What a person or a script reads: tables, JSON, and errors as one sentence and one hint."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from referee.errors import RefereeError

# A pipe or a file has no width of its own; tables in it should not be folded to that of an old terminal.
_WIDTH = None if sys.stdout.isatty() else 140
out = Console(highlight=False, width=_WIDTH)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document for a script to read."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own, for a script to read line by line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | None = None) -> None:
    """Print a plain table; a column whose name ends with `>` is set to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.removesuffix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    out.print(table)


def inert(text: str) -> str:
    """Text that a submission wrote, with every control character escaped, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def say(text: str = "") -> None:
    """Print a line as it is, without markup."""
    out.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line for the person, not for the script, to standard error."""
    err.print(text, markup=False, soft_wrap=True, style="dim")


def print_error(error: RefereeError, *, prefix: str = "Error") -> None:
    """Print what happened and what to do next."""
    err.print(f"[bold red]{escape(prefix)}:[/] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        err.print(escape(error.hint), soft_wrap=True)
