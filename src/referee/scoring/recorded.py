"""What a competition recorded on its public phase: a table of scores, and the prediction files where they were kept.

These files are the host's own, yet participants wrote what is in them. Tables are read by the controller; prediction
files only in the scoring process, leniently: a row that is missing or unreadable is told as missing, not refused.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from referee.challenge import PredictionFormat
from referee.errors import ConfigurationError
from referee.scoring.metric import Floats

_LARGEST_TABLE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class RecordedScore:
    """A submission's score as it was published, and on what it was made, where that is known."""

    score: float
    hardware: str | None = None


def read_recorded_scores(path: Path, blind_ids: Mapping[str, str]) -> dict[str, RecordedScore]:
    """A CSV table with the columns `submission` and `score`, and optionally `hardware`.

    Args:
        path: the file.
        blind_ids: by name and by blind id, the blind id.

    Returns:
        By blind id; submissions that are not known here are left out.

    Raises:
        ConfigurationError: if the file cannot be used, with the first wrong row.
    """
    try:
        if path.stat().st_size > _LARGEST_TABLE_BYTES:
            raise ConfigurationError(f"{path} is too large for a table of scores.", hint="Give one row a submission.")
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(
            f"The recorded scores in {path} cannot be read: {error}.", hint="It must be a CSV file in UTF-8."
        ) from error
    columns = set(rows[0]) if rows else set()
    if not {"submission", "score"} <= columns:
        raise ConfigurationError(
            f"{path} lacks the columns `submission` and `score`.", hint="`hardware` may follow; others are passed over."
        )
    found: dict[str, RecordedScore] = {}
    for number, row in enumerate(rows, start=2):
        blind = blind_ids.get(row["submission"] or "")
        if blind is None or not (row["score"] or "").strip():
            continue
        score = _number(row["score"])
        if score is None or blind in found:
            why = "is no finite number" if score is None else "belongs to a submission that was named before"
            raise ConfigurationError(f"{path}, row {number}: the score {why}.", hint="Correct that row.")
        found[blind] = RecordedScore(score, (row.get("hardware") or "").strip() or None)
    if not found:
        raise ConfigurationError(
            f"{path} names no submission of this challenge.", hint="Its first column holds names or blind ids."
        )
    return found


def find_recorded_predictions(folder: Path, blind_ids: Mapping[str, str]) -> dict[str, Path]:
    """Prediction files in a folder, each called after a submission (`NAME.csv` or `BLIND-ID.csv`), by blind id.

    Raises:
        ConfigurationError: if there is no such folder, or none of its files is called after a submission.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder {folder}.", hint="Give the folder of recorded prediction files.")
    files = sorted(path for path in folder.glob("*.csv") if path.is_file())
    found = {blind_ids[path.stem]: path for path in files if path.stem in blind_ids}
    if not found:
        raise ConfigurationError(
            f"No file in {folder} is called after a submission.", hint="Call them NAME.csv, or BLIND-ID.csv."
        )
    return found


def read_recorded_predictions(data: bytes, names: Sequence[str], layout: PredictionFormat) -> Floats:
    """The values in the order of `names`; NaN where there is no usable row; of two for a file, neither is."""
    place = {name: number for number, name in enumerate(names)}
    values = np.full(len(names), math.nan)
    seen: set[str] = set()
    text = data.decode("utf-8-sig", "replace").replace("\0", "�")
    try:
        for row in csv.DictReader(io.StringIO(text)):
            name = row.get(layout.id_column) or ""
            if name not in place:
                continue
            value = _number(row.get(layout.value_column) or "")
            usable = value is not None and layout.minimum <= value <= layout.maximum and name not in seen
            values[place[name]] = value if usable and value is not None else math.nan
            seen.add(name)
    except csv.Error:
        # What was read before the damaged place stands; the rest is missing.
        return values
    return values


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
