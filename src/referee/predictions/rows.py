"""The rows of an untrusted CSV file of two columns, one at a time, and each reason why a row is none."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from referee.challenge import PredictionFormat
from referee.predictions.problems import PredictionError, Problem, shown, words

VALUE_LIMIT = 64  # characters; a float64 needs 24, and `%.50f` writes 52
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(rb"[+-]?(?:nan|inf|infinity|1\.#(?:inf|ind|qnan)|<na>|na|n/a|null|none)", re.IGNORECASE)
_HEXADECIMAL = re.compile(rb"[+-]?0[xX]")


def content_of(data: bytes | Path, limit_bytes: int) -> bytes:
    """The bytes of an ordinary file of 1 to `limit_bytes` bytes; never waits for a FIFO or a device.

    Raises:
        PredictionError: if it is not an ordinary file, cannot be read, is empty or too large.
    """
    content = _content_of_file(data, limit_bytes) if isinstance(data, Path) else data
    if len(content) > limit_bytes:
        raise _too_large(len(content), limit_bytes)
    if not content or content == BYTE_ORDER_MARK:
        raise PredictionError(Problem.EMPTY_FILE)
    return content


def _content_of_file(path: Path, limit_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise PredictionError(
            Problem.NOT_A_FILE, detail=f"{path} cannot be read ({reason})", hint="Check the path."
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PredictionError(Problem.NOT_A_FILE, detail=f"{path} is not an ordinary file")
        if status.st_size > limit_bytes:
            raise _too_large(status.st_size, limit_bytes)
        chunks, left = [], limit_bytes + 1
        while left > 0 and (chunk := os.read(descriptor, min(left, 2**24))):
            chunks.append(chunk)
            left -= len(chunk)
    except OSError as error:
        raise PredictionError(Problem.NOT_A_FILE, detail=f"{path} cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)
    return b"".join(chunks)


def _too_large(size_bytes: int, limit_bytes: int) -> PredictionError:
    return PredictionError(
        Problem.TOO_LARGE, detail=f"the file has {size_bytes} bytes or more, and the limit is {limit_bytes} bytes"
    )


def rows_of(content: bytes, layout: PredictionFormat, line_limit: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Each row after the header as (row, name, value), unquoted, its form checked but not its values.

    Raises:
        PredictionError: at the first row that is not two fields of sound text.
    """
    start = len(BYTE_ORDER_MARK) if content.startswith(BYTE_ORDER_MARK) else 0
    if content[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise PredictionError(Problem.UTF_16, hint="Write the file as UTF-8.")
    row = 0
    while start < len(content) or row == 0:
        row += 1
        # Bounded by the limit, so that a file that is one endless line is not searched to its end for each row.
        end = content.find(b"\n", start, start + line_limit + 2)
        if end < 0 and len(content) - start > line_limit:
            raise _endless_line(row, content[start : start + line_limit], line_limit)
        line = content[start : end if end >= 0 else len(content)]
        start = end + 1 if end >= 0 else len(content)
        fields = _fields(row, line.removesuffix(b"\r") if end >= 0 else line)
        if row == 1:
            _check_header(fields, layout)
            continue
        if len(fields) != 2:
            raise PredictionError(
                Problem.EXTRA_COLUMN if len(fields) > 2 else Problem.MISSING_COLUMN,
                row=row,
                detail=f"there are {len(fields)} columns instead of 2: {shown(line)}",
                hint="Write numbers with a decimal point, and quote names that hold a comma.",
            )
        yield row, fields[0], fields[1]


def _endless_line(row: int, beginning: bytes, line_limit: int) -> PredictionError:
    for byte, problem in ((b"\0", Problem.NUL_BYTE), (b"\r", Problem.CARRIAGE_RETURN)):
        if byte in beginning:
            return PredictionError(problem, row=row)
    return PredictionError(
        Problem.LINE_TOO_LONG, row=row, detail=f"the line has more than {line_limit} bytes: {shown(beginning)}"
    )


def _fields(row: int, line: bytes) -> list[bytes]:
    if not line:
        raise PredictionError(Problem.EMPTY_LINE, row=row)
    if b"\0" in line:
        raise PredictionError(Problem.NUL_BYTE, row=row, hint="Write the file as UTF-8 text.")
    if b"\r" in line:
        raise PredictionError(Problem.CARRIAGE_RETURN, row=row, hint="End lines with LF or CR LF.")
    if not line.isascii():
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PredictionError(
                Problem.NOT_UTF_8,
                row=row,
                detail=f"byte {error.start + 1} of the row is not UTF-8",
                hint="Write UTF-8.",
            ) from error
    if b'"' not in line:
        return line.split(b",")
    return _quoted_fields(row, line)


def _quoted_fields(row: int, line: bytes) -> list[bytes]:
    fields, place = [], 0
    while True:
        if line[place : place + 1] == b'"':
            field, place = _quoted_field(row, line, place + 1)
        else:
            end = line.find(b",", place)
            field = line[place : end if end >= 0 else len(line)]
            place += len(field)
            if b'"' in field:
                raise _unbalanced(row, line)
        fields.append(field)
        if place == len(line):
            return fields
        if line[place : place + 1] != b",":
            raise _unbalanced(row, line)
        place += 1


def _quoted_field(row: int, line: bytes, place: int) -> tuple[bytes, int]:
    parts = []
    while True:
        end = line.find(b'"', place)
        if end < 0:
            raise _unbalanced(row, line)
        parts.append(line[place:end])
        if line[end + 1 : end + 2] != b'"':
            return b'"'.join(parts), end + 1
        place = end + 2


def _unbalanced(row: int, line: bytes) -> PredictionError:
    return PredictionError(
        Problem.UNBALANCED_QUOTES,
        row=row,
        detail=f"the quotes do not match: {shown(line)}",
        hint="Quote a whole field or none of it, on one line, and double a quote inside quotes.",
    )


def _check_header(fields: list[bytes], layout: PredictionFormat) -> None:
    wanted = [layout.id_column.encode(), layout.value_column.encode()]
    if fields == wanted:
        return
    agreed = f"`{layout.id_column},{layout.value_column}`"
    found = shown(b",".join(fields))
    problem, hint = Problem.WRONG_HEADER, f"Make {agreed} the first row."
    if fields[::-1] == wanted:
        hint = "Swap the two columns."
    elif fields[1:] == wanted and not fields[0]:
        problem, hint = Problem.EXTRA_COLUMN, "Leave out the row numbers (with pandas: `to_csv(..., index=False)`)."
    elif len(fields) > 2 and fields[:2] == wanted:
        problem = Problem.EXTRA_COLUMN
    elif fields in (wanted[:1], wanted[1:]):
        problem = Problem.MISSING_COLUMN
    elif len(fields) == 1 and any(separator in fields[0] for separator in (b";", b"\t")):
        hint = "Separate the columns with commas."
    raise PredictionError(problem, row=1, detail=f"the header is {found} instead of {agreed}", hint=hint)


def number_of(row: int, field: bytes) -> float:
    """The number that a field holds, perhaps infinite by overflow.

    Raises:
        PredictionError: if it is anything but a decimal number in ASCII, with the reason.
    """
    if len(field) <= VALUE_LIMIT and _NUMBER.fullmatch(field):
        return float(field)
    problem = _why_no_number(field)
    quoted = "" if problem is Problem.EMPTY_VALUE else f": {shown(field)}"
    raise PredictionError(problem, row=row, detail=words(problem) + quoted)


def _why_no_number(field: bytes) -> Problem:  # noqa: PLR0911 - one answer for each way of being wrong
    text = field.decode("utf-8")
    if not text:
        return Problem.EMPTY_VALUE
    if text != text.strip():
        return Problem.SURROUNDING_SPACES
    if len(field) > VALUE_LIMIT:
        return Problem.VALUE_TOO_LONG
    if _NOT_FINITE.fullmatch(field):
        return Problem.NOT_FINITE
    if field[:1] in {b"=", b"@"}:
        return Problem.FORMULA
    if _HEXADECIMAL.match(field):
        return Problem.HEXADECIMAL
    if b"_" in field and _NUMBER.fullmatch(field.replace(b"_", b"")):
        return Problem.UNDERSCORE
    if any(character.isnumeric() and not character.isascii() for character in text):
        return Problem.NON_ASCII_DIGITS
    return Problem.NOT_A_NUMBER
