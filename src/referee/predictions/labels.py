"""The true labels of a phase: as strictly read as predictions, because everything is scored against them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from referee.challenge import PredictionFormat
from referee.digests import digest_of
from referee.errors import ConfigurationError
from referee.predictions.problems import PredictionError, shown
from referee.predictions.rows import content_of, number_of, rows_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LIMIT_BYTES = 2**30
_LINE_LIMIT_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a phase.

    Attributes:
        names: the files, in the order of the label file, or in the order in which they were expected.
        doubles: 0.0 (real) or 1.0 (fake) for each of `names`.
        digest: `sha256:…` of the file's bytes.
    """

    names: tuple[str, ...]
    doubles: array[float]
    digest: str

    @property
    def values(self) -> NDArray[np.float64]:
        """The labels as a numpy array that must not be written to; shape (files,)."""
        import numpy as np  # noqa: PLC0415 - as in Predictions.values

        values = np.frombuffer(self.doubles, dtype=np.float64)
        values.flags.writeable = False
        return values


def read_labels(path: Path, layout: PredictionFormat, *, expected: Sequence[str] | None = None) -> Labels:
    """Read a label file: the columns of the prediction file, and 0 or 1 as values.

    Args:
        path: where the operator keeps the labels.
        layout: the names of the two columns.
        expected: if given, the phase's files: each must have a label, none may be left over, and the result is in
            their order.

    Raises:
        ConfigurationError: if anything at all is wrong, with the row.
    """
    try:
        content = content_of(path, _LIMIT_BYTES)
        labels = _labels(path, content, layout)
    except PredictionError as error:
        raise ConfigurationError(f"The label file {path} is wrong. {error.message}", hint=error.hint) from error
    if expected is not None:
        _compare(path, labels, expected)
    names = tuple(labels if expected is None else expected)
    digest = digest_of(content)
    return Labels(names, array("d", [labels[name] for name in names]), digest)


def _labels(path: Path, content: bytes, layout: PredictionFormat) -> dict[str, float]:
    labels: dict[str, float] = {}
    for row, name, field in rows_of(content, layout, _LINE_LIMIT_BYTES):
        text = name.decode("utf-8")
        value = number_of(row, field)
        if value not in (0.0, 1.0):
            raise ConfigurationError(
                f"The label file {path} is wrong. Row {row}: the label {shown(field)} is neither 0 nor 1.",
                hint="Write 1 for fake and 0 for real.",
            )
        if text in labels:
            raise ConfigurationError(
                f"The label file {path} is wrong. Row {row}: {shown(name)} already has a label.",
                hint="Label each file once.",
            )
        labels[text] = value
    return labels


def _compare(path: Path, labels: dict[str, float], expected: Sequence[str]) -> None:
    missing = [name for name in expected if name not in labels]
    if missing:
        raise ConfigurationError(
            f"The label file {path} has no label for {len(missing)} of the phase's {len(expected)} files, "
            f"the first of them {missing[0]!r}.",
            hint="Add the labels, or take the files out of the phase's data folder.",
        )
    left_over = sorted(labels.keys() - set(expected))
    if left_over:
        raise ConfigurationError(
            f"The label file {path} labels {len(left_over)} files that the phase does not have, "
            f"the first of them {left_over[0]!r}.",
            hint="Take these rows out, or add the files to the phase's data folder.",
        )
