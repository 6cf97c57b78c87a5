"""What is known of the items besides their labels: visibility, manipulation, source, identity. The operator's file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from referee.errors import ConfigurationError


def read_metadata(path: Path, names: Sequence[str], id_column: str) -> dict[str, tuple[str, ...]]:
    """The columns of a metadata file by their names, each in the order of `names`.

    Args:
        path: a CSV file with a header and one row for each of the phase's files.
        names: the phase's files.
        id_column: the column that names the file, as in predictions and labels.

    Raises:
        ConfigurationError: if the file is not that, with the row.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(
            f"The metadata file {path} cannot be read: {error}.", hint="Write UTF-8 CSV."
        ) from error
    header = rows[0] if rows else []
    if id_column not in header or len(set(header)) != len(header):
        raise ConfigurationError(
            f"The metadata file {path} needs a header of different names with the column {id_column!r}.",
            hint=f"Found: {', '.join(header) or 'nothing'}.",
        )
    place = header.index(id_column)
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header) or row[place] in found:
            why = "names a file again" if len(row) == len(header) else f"has {len(row)} columns, not {len(header)}"
            raise ConfigurationError(f"The metadata file {path}: row {number} {why}.", hint="Correct that row.")
        found[row[place]] = row
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigurationError(
            f"The metadata file {path} has no row for {len(missing)} of the phase's files, the first of them "
            f"{missing[0]!r}.",
            hint="Add the rows; leave a field empty where nothing is known.",
        )
    return {
        column: tuple(found[name][number] for name in names) for number, column in enumerate(header) if number != place
    }
