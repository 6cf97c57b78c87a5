"""An untrusted prediction file is read exactly, or refused with the first wrong row and a reason of its own."""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from referee.challenge import PredictionFormat
from referee.errors import ConfigurationError
from referee.predictions import PredictionError, Problem, describe_format, read_predictions
from referee.predictions.problems import words
from referee.predictions.reading import _index, _read_carefully, _read_fast

LAYOUT = PredictionFormat()
NAMES = ("a.mp4", "b.mp4", "c.mp4")
GOOD = b"filename,label\na.mp4,0.25\nb.mp4,1\nc.mp4,0\n"
LIMIT = 2**20


def read(data: bytes, names: tuple[str, ...] = NAMES) -> list[float]:
    return read_predictions(data, names, LAYOUT, limit_bytes=LIMIT).values.tolist()


def problem_of(data: bytes, names: tuple[str, ...] = NAMES) -> PredictionError:
    with pytest.raises(PredictionError) as caught:
        read(data, names)
    return caught.value


def row_with(value: bytes | str) -> bytes:
    field = value.encode() if isinstance(value, str) else value
    return b"filename,label\na.mp4,0.25\nb.mp4," + field + b"\nc.mp4,0\n"


@pytest.mark.parametrize(
    ("case", "data"),
    [
        ("as agreed", GOOD),
        ("another order", b"filename,label\nc.mp4,0\na.mp4,0.25\nb.mp4,1\n"),
        ("no last line end", GOOD[:-1]),
        ("line ends of Windows", GOOD.replace(b"\n", b"\r\n")),
        ("line ends of Windows, no last one", GOOD.replace(b"\n", b"\r\n")[:-2]),
        ("a byte order mark", b"\xef\xbb\xbf" + GOOD),
        ("quoted names, as R writes them", b'"filename","label"\n"a.mp4",0.25\n"b.mp4",1\n"c.mp4",0\n'),
        ("quoted numbers", b'filename,label\na.mp4,"0.25"\nb.mp4,"1"\nc.mp4,"0"\n'),
        ("numbers in other words", b"filename,label\na.mp4,+.25\nb.mp4,1.\nc.mp4,-0e5\n"),
        ("exponents and leading zeros", b"filename,label\na.mp4,2500.0e-4\nb.mp4,00001\nc.mp4,0E+9\n"),
    ],
)
def test_a_sound_file_is_read_in_the_expected_order(case: str, data: bytes) -> None:
    assert read(data) == [0.25, 1.0, 0.0]


NOT_FINITE = ("nan", "NaN", "-nan", "inf", "-Infinity", "NA", "None", "1.#INF")
NOT_NUMBERS = (
    "fake",
    "0.5.1",
    "1e",
    "e5",
    ".",
    "-",
    "--1",
    "1e5.5",
    "0.5f",
    "1/2",
    "50%",
    "1+1",
    "true",
    "0 5",
    "\u22121",
)
OUT_OF_RANGE = ("1.0000000000000002", "-1e-300", "1e999", "-1e999", "2", "100")

# Each way of being wrong: the file, the problem, the row that must be named.
WRONG: list[tuple[str, bytes, Problem, int | None]] = [
    ("empty", b"", Problem.EMPTY_FILE, None),
    ("only a byte order mark", b"\xef\xbb\xbf", Problem.EMPTY_FILE, None),
    ("UTF-16 little endian", GOOD.decode().encode("utf-16-le").join([b"\xff\xfe", b""]), Problem.UTF_16, None),
    ("UTF-16 big endian", b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), Problem.UTF_16, None),
    ("UTF-16 without a mark", GOOD.decode().encode("utf-16-le"), Problem.NUL_BYTE, 1),
    ("UTF-32", GOOD.decode().encode("utf-32-be"), Problem.NUL_BYTE, 1),
    ("not UTF-8", b"filename,label\na.mp4,0.25\nb\xe9.mp4,1\nc.mp4,0\n", Problem.NOT_UTF_8, 3),
    ("not UTF-8 in the value", row_with(b"0.5\xff"), Problem.NOT_UTF_8, 3),
    ("overlong UTF-8", b"filename,label\n\xc1\xa1.mp4,0.25\n", Problem.NOT_UTF_8, 2),
    ("a byte order mark in the middle", GOOD.replace(b"b.mp4", b"\xef\xbb\xbfb.mp4"), Problem.UNKNOWN_FILE, 3),
    ("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD, Problem.WRONG_HEADER, 1),
    ("NUL byte", row_with(b"0.5\0"), Problem.NUL_BYTE, 3),
    ("all NUL", bytes(4000), Problem.NUL_BYTE, 1),
    ("CR only", GOOD.replace(b"\n", b"\r"), Problem.CARRIAGE_RETURN, 1),
    ("CR CR LF", GOOD.replace(b"\n", b"\r\r\n"), Problem.CARRIAGE_RETURN, 1),
    ("CR at the very end", GOOD[:-1] + b"\r", Problem.CARRIAGE_RETURN, 4),
    ("endless line", b"filename,label\na.mp4," + b"0" * 100_000, Problem.LINE_TOO_LONG, 2),
    ("long line that does end", b"filename,label\n" + b"x" * 5000 + b",0.5\n" + GOOD, Problem.LINE_TOO_LONG, 2),
    ("endless line after sound rows", GOOD + b"x" * 100_000, Problem.LINE_TOO_LONG, 5),
    ("endless header", b"f" * 100_000, Problem.LINE_TOO_LONG, 1),
    ("only a line end", b"\n", Problem.EMPTY_LINE, 1),
    ("empty line first", b"\n" + GOOD, Problem.EMPTY_LINE, 1),
    ("empty line in the middle", GOOD.replace(b"\nb", b"\n\nb"), Problem.EMPTY_LINE, 3),
    ("empty line at the end", GOOD + b"\n", Problem.EMPTY_LINE, 5),
    ("empty line of Windows", GOOD.replace(b"\n", b"\r\n") + b"\r\n", Problem.EMPTY_LINE, 5),
    ("quote left open", b'filename,label\n"a.mp4,0.25\nb.mp4,1\n', Problem.UNBALANCED_QUOTES, 2),
    ("quote across lines", b'filename,label\n"a.mp4\n",0.25\n', Problem.UNBALANCED_QUOTES, 2),
    ("quote in the middle", b'filename,label\na".mp4,0.25\n', Problem.UNBALANCED_QUOTES, 2),
    ("text after a quote", b'filename,label\n"a.mp4"x,0.25\n', Problem.UNBALANCED_QUOTES, 2),
    ("only a quote", b'"', Problem.UNBALANCED_QUOTES, 1),
    ("no header", GOOD.removeprefix(b"filename,label\n"), Problem.WRONG_HEADER, 1),
    ("columns swapped", b"label,filename\n0.25,a.mp4\n", Problem.WRONG_HEADER, 1),
    ("capitals", GOOD.replace(b"label", b"Label"), Problem.WRONG_HEADER, 1),
    ("spaces in the header", GOOD.replace(b",label", b", label"), Problem.WRONG_HEADER, 1),
    ("semicolons", GOOD.replace(b",", b";"), Problem.WRONG_HEADER, 1),
    ("one column in the header", GOOD.replace(b"filename,label", b"filename"), Problem.MISSING_COLUMN, 1),
    ("row numbers of pandas", b",filename,label\n0,a.mp4,0.25\n", Problem.EXTRA_COLUMN, 1),
    ("a third column in the header", b"filename,label,why\na.mp4,0.25,x\n", Problem.EXTRA_COLUMN, 1),
    ("a third column in a row", row_with("1,"), Problem.EXTRA_COLUMN, 3),
    ("decimal comma", row_with("0,5"), Problem.EXTRA_COLUMN, 3),
    ("one column in a row", b"filename,label\na.mp4,0.25\nb.mp4\nc.mp4,0\n", Problem.MISSING_COLUMN, 3),
    ("separators in each other's place", b"filename,label\na.mp4\n0.25\nb.mp4,1,c.mp4,0", Problem.MISSING_COLUMN, 2),
    ("unknown file", GOOD.replace(b"b.mp4", b"d.mp4"), Problem.UNKNOWN_FILE, 3),
    ("a folder before the name", GOOD.replace(b"b.mp4", b"/data/b.mp4"), Problem.UNKNOWN_FILE, 3),
    ("a formula as name", GOOD.replace(b"b.mp4", b"=1+1"), Problem.UNKNOWN_FILE, 3),
    ("too many rows, the last unknown", GOOD + b"d.mp4,0\n", Problem.UNKNOWN_FILE, 5),
    ("duplicate instead of another", GOOD.replace(b"c.mp4", b"a.mp4"), Problem.DUPLICATE_FILE, 4),
    ("too many rows, the last a duplicate", GOOD + b"a.mp4,0.25\n", Problem.DUPLICATE_FILE, 5),
    ("the whole file twice", GOOD + GOOD, Problem.UNKNOWN_FILE, 5),
    ("header only", b"filename,label\n", Problem.MISSING_FILES, None),
    ("header without line end", b"filename,label", Problem.MISSING_FILES, None),
    ("the last file missing", GOOD.replace(b"c.mp4,0\n", b""), Problem.MISSING_FILES, None),
    ("space before the name", GOOD.replace(b"b.mp4", b" b.mp4"), Problem.SURROUNDING_SPACES, 3),
    ("space before the value", row_with(" 0.5"), Problem.SURROUNDING_SPACES, 3),
    ("space after the value", row_with("0.5 "), Problem.SURROUNDING_SPACES, 3),
    ("tab after the value", row_with("0.5\t"), Problem.SURROUNDING_SPACES, 3),
    ("no-break space", row_with("\u00a00.5"), Problem.SURROUNDING_SPACES, 3),
    ("empty value", row_with(""), Problem.EMPTY_VALUE, 3),
    ("value of 65 characters", row_with("0." + "1" * 63), Problem.VALUE_TOO_LONG, 3),
    *((text, row_with(text), Problem.NOT_FINITE, 3) for text in NOT_FINITE),
    ("formula", row_with("=1+1"), Problem.FORMULA, 3),
    ("formula of a spreadsheet", row_with("@SUM(1)"), Problem.FORMULA, 3),
    ("hexadecimal", row_with("0x1p-1"), Problem.HEXADECIMAL, 3),
    ("underscore", row_with("0.1_0"), Problem.UNDERSCORE, 3),
    ("underscore between digits", row_with("1_0"), Problem.UNDERSCORE, 3),
    ("Arabic digits", row_with("\u0660.\u0665"), Problem.NON_ASCII_DIGITS, 3),
    ("full-width digit", row_with("\uff11"), Problem.NON_ASCII_DIGITS, 3),
    ("superscript", row_with("1²"), Problem.NON_ASCII_DIGITS, 3),
    *((text, row_with(text), Problem.NOT_A_NUMBER, 3) for text in NOT_NUMBERS),
    *((text, row_with(text), Problem.OUT_OF_RANGE, 3) for text in OUT_OF_RANGE),
]


@pytest.mark.parametrize(("case", "data", "problem", "row"), WRONG, ids=[case for case, *_ in WRONG])
def test_each_way_of_being_wrong_is_named_with_its_row(
    case: str, data: bytes, problem: Problem, row: int | None
) -> None:
    error = problem_of(data)
    assert (error.problem, error.row) == (problem, row), error.message
    assert error.message.endswith(".")
    assert (row is None) == ("Row" not in error.message.split(":")[0])


def test_every_problem_has_a_case_and_words_of_its_own() -> None:
    covered = {problem for _, _, problem, _ in WRONG}
    assert set(Problem) - covered == {Problem.NOT_A_FILE, Problem.TOO_LARGE}  # these two have tests below
    assert len({words(problem) for problem in Problem}) == len(Problem)


def test_the_public_line_tells_class_and_row_and_nothing_of_the_file() -> None:
    error = problem_of(GOOD.replace(b"b.mp4", b"canary.mp4"))
    assert "canary" in error.message
    assert error.public == "Row 3: the name is not one of the phase's files (unknown_file)."
    missing = problem_of(b"filename,label\na.mp4,0.25\n")
    assert "2 of the phase's 3 files" in missing.message
    assert "b.mp4" in missing.message
    assert missing.public == "There is not a row for each of the phase's files (missing_files)."


@pytest.mark.parametrize("value", ["", "nan", ","])
def test_a_phase_of_one_file_wants_its_one_value(value: str) -> None:
    assert read(b"filename,label\na.mp4,0.5\n", ("a.mp4",)) == [0.5]
    assert problem_of(f"filename,label\na.mp4,{value}\n".encode(), ("a.mp4",)).row == 2


def test_too_many_rows_are_counted_for_the_operator() -> None:
    assert "4 rows after the header, and 3 are expected" in problem_of(GOOD + b"d.mp4,0\n").message


def test_what_a_hostile_file_says_is_escaped_and_cut() -> None:
    error = problem_of(row_with(b"\x1b[2J\x07" + b"9" * 40 + b"\xe2\x80\xae"))
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(problem_of(GOOD.replace(b"b.mp4", b"b" * 300)).message) < 300


def test_names_with_commas_quotes_and_foreign_letters_are_read() -> None:
    names = ("a,b.mp4", 'say "hi".mp4', "größe.mp4", "日本.mp4")
    data = 'filename,label\n"a,b.mp4",0.1\n"say ""hi"".mp4",0.2\ngröße.mp4,0.3\n"日本.mp4",0.4\n'.encode()
    assert read(data, names) == [0.1, 0.2, 0.3, 0.4]


def test_a_name_in_another_unicode_form_is_another_file() -> None:
    assert problem_of("filename,label\nu\u0308.mp4,0.1\n".encode(), ("\u00fc.mp4",)).problem is Problem.UNKNOWN_FILE


def test_the_columns_and_the_range_are_the_challenges() -> None:
    layout = PredictionFormat(id_column="id", value_column="score", minimum=-10, maximum=10)
    data = b"id,score\na,-9.5\n"
    assert read_predictions(data, ["a"], layout, limit_bytes=LIMIT).values.tolist() == [-9.5]
    with pytest.raises(PredictionError, match=r"-10\.5.*-10 to 10"):
        read_predictions(b"id,score\na,-10.5\n", ["a"], layout, limit_bytes=LIMIT)


def test_no_range_makes_an_infinite_value_welcome() -> None:
    layout = PredictionFormat(minimum=float("-inf"), maximum=float("inf"))
    assert read_predictions(b"filename,label\na,1e308\n", ["a"], layout, limit_bytes=LIMIT).values.tolist() == [1e308]
    with pytest.raises(PredictionError, match="lies outside"):
        read_predictions(b"filename,label\na,-1e309\n", ["a"], layout, limit_bytes=LIMIT)


def test_the_digest_is_that_of_the_bytes() -> None:
    got = read_predictions(GOOD, NAMES, LAYOUT, limit_bytes=LIMIT)
    assert got.digest == f"sha256:{hashlib.sha256(GOOD).hexdigest()}"
    assert got.rows == 3
    with pytest.raises(ValueError, match="read-only"):
        got.values[0] = 1.0


def test_errors_cross_process_borders_whole() -> None:
    error = problem_of(row_with("0x1"))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own error, made above
    assert (copy.problem, copy.row, copy.message, copy.public, copy.hint) == (
        error.problem,
        error.row,
        error.message,
        error.public,
        error.hint,
    )


@pytest.mark.parametrize("names", [("a", "a"), ("a\nb",), ("",), ("\udcff",)])
def test_an_unusable_list_of_files_is_the_operators_to_mend(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError):
        read(GOOD, names)


def test_a_path_is_read_like_bytes(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_bytes(GOOD)
    assert read_predictions(path, NAMES, LAYOUT, limit_bytes=len(GOOD)).values.tolist() == [0.25, 1.0, 0.0]
    with pytest.raises(PredictionError) as caught:
        read_predictions(path, NAMES, LAYOUT, limit_bytes=len(GOOD) - 1)
    assert caught.value.problem is Problem.TOO_LARGE


def test_what_is_not_an_ordinary_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "absent", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(PredictionError) as caught:
            read_predictions(path, NAMES, LAYOUT, limit_bytes=LIMIT)
        assert caught.value.problem is Problem.NOT_A_FILE


def test_a_file_beyond_the_limit_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(10 * 10**9)  # sparse: one line of ten gigabytes
    with pytest.raises(PredictionError) as caught:
        read_predictions(path, NAMES, LAYOUT, limit_bytes=LIMIT)
    assert caught.value.problem is Problem.TOO_LARGE


_HOSTILE_64_MIB = {
    "newlines": b"\n",
    "commas": b",",
    "quotes": b'"',
    "letters": b"x",
    "digits": b"7",
    "carriage returns": b"\r\n",
    "nul": b"\0",
    "rows": b"a.mp4,0.5\n",
    "sound header, then commas": b",",
}


@pytest.mark.parametrize("case", _HOSTILE_64_MIB)
def test_a_hostile_file_of_64_mib_costs_bounded_memory_and_time(case: str) -> None:
    size = 64 * 2**20
    data = (_HOSTILE_64_MIB[case] * (size // len(_HOSTILE_64_MIB[case]) + 1))[:size]
    if case.startswith("sound") or case == "rows":
        data = (b"filename,label\n" + data)[:size]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(PredictionError):
        read_predictions(data, NAMES, LAYOUT, limit_bytes=size)
    spent = time.process_time() - start
    hashing = time.process_time()
    hashlib.sha256(data).digest()
    hashing = time.process_time() - hashing
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2.5 * size / 1024
    assert spent < 40 * hashing + 0.5  # a few passes over the bytes, whatever this machine's speed


def test_the_worker_does_not_pay_for_numpy_and_polars() -> None:
    program = (
        "import sys; from referee.predictions import read_predictions; from referee.challenge import PredictionFormat;"
        "read_predictions(b'filename,label\\na,0.5\\n', ['a'], PredictionFormat(), limit_bytes=99);"
        "print(sorted({'numpy', 'polars', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_format_is_described_in_words() -> None:
    text = describe_format(PredictionFormat(), rows=40)
    assert "`filename,label`" in text
    assert "40 rows" in text
    assert "from 0 to 1" in text


# Laws.

_pieces = st.sampled_from(
    [
        b"filename,label",
        b"\n",
        b"\r\n",
        b"\r",
        b",",
        b'"',
        b"a.mp4",
        b"b.mp4",
        b"c.mp4",
        b"0.5",
        b"1",
        b"1e-3",
        b".5",
        b"+1",
        b"-0",
        b"nan",
        b"1_0",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\0",
        b" ",
        b"=1",
        "\u0663".encode(),
        b"9" * 70,
        b"00",
        b"1e999",
    ]
)
_rows = st.lists(
    st.tuples(st.sampled_from([b"a.mp4", b"b.mp4", b"c.mp4", b'"a.mp4"', b"d"]), _pieces | st.binary(max_size=6)),
    max_size=5,
).map(lambda rows: b"filename,label\n" + b"".join(name + b"," + value + b"\n" for name, value in rows))
_files = st.one_of(st.binary(max_size=300), st.lists(_pieces, max_size=20).map(b"".join), _rows)


@given(_files)
@example(GOOD)
@example(GOOD[:-1] + b"\r")
@settings(max_examples=600)
def test_any_bytes_are_either_read_or_refused_with_a_prediction_error(data: bytes) -> None:
    try:
        values = read(data)
    except PredictionError as error:
        assert error.message.isprintable()  # noqa: PT017 - both outcomes are lawful
        assert error.public.isascii()  # noqa: PT017
    else:
        assert len(values) == 3
        assert all(0 <= value <= 1 for value in values)


@given(_files)
@settings(max_examples=600)
def test_the_fast_way_accepts_only_what_the_careful_way_accepts_and_reads_the_same(data: bytes) -> None:
    known = _index(NAMES)
    fast = _read_fast(data, known, LAYOUT)
    if fast is not None:
        assert fast.tobytes() == _read_carefully(data, known, LAYOUT).tobytes()


_numbers = st.one_of(
    st.floats(0, 1).map(repr),
    st.floats(0, 1).map(lambda value: f"{value:.17e}"),
    st.floats(0, 1).map(lambda value: f"{value:.40f}"),
    st.integers(0, 10**40).map(lambda digits: f"0.{digits:040d}"),
    st.integers(0, 10**50).map(lambda digits: f"{digits}e-51"),
)


@given(st.lists(_numbers, min_size=1, max_size=50), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_every_honest_file_goes_the_fast_way_and_each_number_is_rounded_as_float_does(
    numbers: list[str], random: object
) -> None:
    names = tuple(f"{place}.mp4" for place in range(len(numbers)))
    rows = list(zip(names, numbers, strict=True))
    random.shuffle(rows)  # type: ignore[attr-defined]  # hypothesis hands over a random.Random
    data = ("filename,label\n" + "".join(f"{name},{number}\n" for name, number in rows)).encode()
    fast = _read_fast(data, _index(names), LAYOUT)
    assert fast is not None
    assert np.array_equal(np.frombuffer(fast), [float(number) for number in numbers])
    assert read(data, names) == list(fast)
