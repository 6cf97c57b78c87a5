"""Labels are read as strictly as predictions; what is wrong is the operator's to mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from referee.challenge import PredictionFormat
from referee.errors import ConfigurationError
from referee.predictions import read_labels

LAYOUT = PredictionFormat()


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_are_read_in_the_order_of_the_file_or_of_the_phase(tmp_path: Path) -> None:
    path = written(tmp_path, "filename,label\nb,1\na,0.0\n")
    assert read_labels(path, LAYOUT).names == ("b", "a")
    ordered = read_labels(path, LAYOUT, expected=["a", "b"])
    assert (ordered.names, ordered.values.tolist()) == (("a", "b"), [0.0, 1.0])
    assert ordered.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("filename,label\na,0.5\n", "Row 2: the label '0.5' is neither 0 nor 1"),
        ("filename,label\na,FAKE\n", "Row 2: the value is not a number"),
        ("filename,label\na,1\na,1\n", "Row 3: 'a' already has a label"),
        ("name,label\na,1\n", "the header is"),
        ("", "The file is empty"),
        ("filename,label\na,1\n", "no label for 1 of the phase's 2 files, the first of them 'b'"),
        ("filename,label\na,1\nb,0\nc,0\n", "labels 1 files that the phase does not have, the first of them 'c'"),
    ],
)
def test_a_wrong_label_file_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_labels(written(tmp_path, text), LAYOUT, expected=["a", "b"])
    assert said in caught.value.message
    assert "labels.csv" in caught.value.message
