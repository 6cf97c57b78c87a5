"""Every way in which a prediction file can be wrong, each with its own words."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from referee.errors import RefereeError

_SHOWN = 60  # characters of a hostile field that an operator is shown, escaped


class Problem(StrEnum):
    """What is wrong with a prediction file. The values are stable: participants are told them."""

    NOT_A_FILE = "not_a_file"
    TOO_LARGE = "too_large"
    EMPTY_FILE = "empty_file"
    UTF_16 = "utf_16"
    NOT_UTF_8 = "not_utf_8"
    NUL_BYTE = "nul_byte"
    CARRIAGE_RETURN = "carriage_return"
    LINE_TOO_LONG = "line_too_long"
    EMPTY_LINE = "empty_line"
    UNBALANCED_QUOTES = "unbalanced_quotes"
    WRONG_HEADER = "wrong_header"
    MISSING_COLUMN = "missing_column"
    EXTRA_COLUMN = "extra_column"
    UNKNOWN_FILE = "unknown_file"
    DUPLICATE_FILE = "duplicate_file"
    MISSING_FILES = "missing_files"
    SURROUNDING_SPACES = "surrounding_spaces"
    EMPTY_VALUE = "empty_value"
    VALUE_TOO_LONG = "value_too_long"
    NOT_FINITE = "not_finite"
    FORMULA = "formula"
    HEXADECIMAL = "hexadecimal"
    UNDERSCORE = "underscore"
    NON_ASCII_DIGITS = "non_ascii_digits"
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"


# What a participant may be told about a file on a private phase: a class of failure, nothing from the file or the data.
_PUBLIC: dict[Problem, str] = {
    Problem.NOT_A_FILE: "the predictions are not an ordinary file",
    Problem.TOO_LARGE: "the file is larger than the limit",
    Problem.EMPTY_FILE: "the file is empty",
    Problem.UTF_16: "the file is UTF-16, not UTF-8",
    Problem.NOT_UTF_8: "the text is not UTF-8",
    Problem.NUL_BYTE: "there is a NUL byte",
    Problem.CARRIAGE_RETURN: "there is a carriage return that does not belong to a line end (use LF or CR LF)",
    Problem.LINE_TOO_LONG: "the line is too long",
    Problem.EMPTY_LINE: "the line is empty",
    Problem.UNBALANCED_QUOTES: "the quotes do not match",
    Problem.WRONG_HEADER: "the header is not the agreed one",
    Problem.MISSING_COLUMN: "a column is missing",
    Problem.EXTRA_COLUMN: "there is a column too many",
    Problem.UNKNOWN_FILE: "the name is not one of the phase's files",
    Problem.DUPLICATE_FILE: "the file was already predicted in an earlier row",
    Problem.MISSING_FILES: "there is not a row for each of the phase's files",
    Problem.SURROUNDING_SPACES: "there are spaces around a field",
    Problem.EMPTY_VALUE: "the value is empty",
    Problem.VALUE_TOO_LONG: "the value is too long",
    Problem.NOT_FINITE: "the value is NaN or infinite",
    Problem.FORMULA: "the value is a formula",
    Problem.HEXADECIMAL: "the value is a hexadecimal number",
    Problem.UNDERSCORE: "the value has an underscore in it",
    Problem.NON_ASCII_DIGITS: "the value is written with digits other than 0-9",
    Problem.NOT_A_NUMBER: "the value is not a number",
    Problem.OUT_OF_RANGE: "the value lies outside the agreed range",
}


class PredictionError(RefereeError):
    """A prediction file was refused.

    Attributes:
        problem: which way of being wrong it is.
        row: the first wrong row as an editor counts lines (the header is row 1); `None` if it is no single row.
        message: for the operator, and for a participant on their own machine; quotes the file, escaped and cut.
        public: for the participant after a private phase: the class of failure and the row, nothing else.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: Problem, *, row: int | None = None, detail: str = "", hint: str = "") -> None:
        super().__init__(_sentence(row, detail or words(problem)), hint=hint)
        self.problem = problem
        self.row = row
        self.public = _sentence(row, f"{words(problem)} ({problem.value})")

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders when many files are read at once.
        return _restore, (self.problem, self.row, self.message, self.hint)


def _restore(problem: Problem, row: int | None, message: str, hint: str) -> PredictionError:
    error = PredictionError(problem, row=row, hint=hint)
    error.message = message
    return error


def _sentence(row: int | None, text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if row is None else f"Row {row}: {text}."


def words(problem: Problem) -> str:
    """What `problem` means, as half a sentence that says nothing about the file or the data."""
    return _PUBLIC[problem]


def shown(field: bytes) -> str:
    """A hostile field as it may be printed: quoted, control and foreign characters escaped, cut to a few words."""
    text = ascii(field[: 4 * _SHOWN].decode("utf-8", "backslashreplace"))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
