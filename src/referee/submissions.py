"""Submissions: the manifest that names them, and the blind ids under which they are judged.

A manifest is a CSV file: `submission,team,image,kind` and optionally `public_score` and `public_runtime_seconds`. All
problems of a file are reported at once, each with its row (as a spreadsheet counts them, the header is row 1), its
column and what is valid there.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import math
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from referee.challenge import Frozen
from referee.errors import ConfigurationError
from referee.images.model import shown
from referee.images.source import ImageSource, parse_source
from referee.secret_file import open_secret

MAX_MANIFEST_BYTES = 16 << 20
MAX_ROWS = 100_000
_REQUIRED = ("submission", "team", "image", "kind")
_OPTIONAL = ("public_score", "public_runtime_seconds")
_KINDS = ("cpu", "gpu")
_MAX_NAME = 200
_MAX_CELL = 4096
_MAX_PROBLEMS = 50
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_UNPRINTABLE = {"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"}
_KEY_BYTES = 32
_SHORTEST_ID = 6
_LONGEST_ID = 8

Kind = Literal["cpu", "gpu"]


class ManifestRow(Frozen):
    """One submission as its manifest states it.

    Attributes:
        row: where it stands in the file, the header being row 1; 0 if it was given on the command line.
        public_score: of the public phase, as recorded by whoever ran it.
        public_runtime_seconds: likewise, wall time of the whole phase.
    """

    row: int
    submission: str
    team: str
    image: ImageSource
    kind: Kind = "cpu"
    public_score: float | None = None
    public_runtime_seconds: float | None = None


def read_manifest(path: Path, finals_per_team: int) -> tuple[ManifestRow, ...]:
    """Read a manifest.

    Args:
        path: of the CSV file; relative images in it are relative to its folder.
        finals_per_team: the most rows that one team may have.

    Raises:
        ConfigurationError: one line for each thing that is wrong.
    """
    problems: list[str] = []
    table = _table(_text(path), problems)
    columns = _columns(table[0][1], problems) if table else {}
    rows: list[ManifestRow] = []
    if not table:
        problems.append(f"the file is empty; its first row names the columns: {', '.join(_REQUIRED + _OPTIONAL)}")
    elif columns:
        width = len(table[0][1])
        for number, cells in table[1:]:
            row = _row(number, cells, width, columns, path.parent, problems)
            if row is not None:
                rows.append(row)
        if len(table) == 1:
            problems.append("there is no submission in it: a row for each follows the header")
        problems.extend(_across(rows, finals_per_team))
    if problems:
        raise _refused(path, problems)
    return tuple(rows)


def single_submission(
    image: str, folder: Path, *, submission: str | None = None, team: str | None = None, kind: Kind = "cpu"
) -> ManifestRow:
    """A submission given on the command line: one image, named after itself unless a name is given.

    Raises:
        ConfigurationError: the image, or a name, is not usable.
    """
    source = parse_source(image, folder)
    place = source.path.name if source.path is not None else source.reference
    problems: list[str] = []
    name = _name("submission", submission if submission is not None else place, 0, problems)
    owner = _name("team", team if team is not None else place, 0, problems)
    if problems:
        raise ConfigurationError(f"{problems[0]}.", hint="Give names of their own with --submission and --team.")
    return ManifestRow(row=0, submission=name, team=owner, image=source, kind=kind)


def _refused(path: Path, problems: Sequence[str]) -> ConfigurationError:
    lines = [f"{path}: {problem}." for problem in problems[:_MAX_PROBLEMS]]
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"{path}: and {len(problems) - _MAX_PROBLEMS} more problems.")
    return ConfigurationError(
        "\n".join(lines), hint=f"Its columns are {', '.join(_REQUIRED)}, and optionally {' and '.join(_OPTIONAL)}."
    )


def _text(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not make us wait
        with os.fdopen(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigurationError(f"{path} is not a plain file.", hint="A manifest is a CSV file.")
            data = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", hint="Give the path of a CSV file."
        ) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise ConfigurationError(
            f"{path} is larger than {MAX_MANIFEST_BYTES >> 20} MiB.", hint="Split it into several manifests."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}: line {line} is not UTF-8.", hint="Save it as CSV with the encoding UTF-8."
        ) from error


def _table(text: str, problems: list[str]) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, with their numbers."""
    if "\0" in text:
        problems.append(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a NUL byte")
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    number = 0
    while True:
        number += 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problems.append(f"row {number} is not CSV: {error}")
            break  # nothing after it can be told apart
        if cells is None:
            break
        if len(rows) > MAX_ROWS:
            problems.append(f"it has more than {MAX_ROWS} rows")
            break
        if any(cell.strip() for cell in cells):
            rows.append((number, [cell.strip() for cell in cells]))
    return rows


def _columns(header: Sequence[str], problems: list[str]) -> dict[str, int]:
    """Where each column stands; empty if the rows cannot be read for want of one."""
    valid = _REQUIRED + _OPTIONAL
    for name in dict.fromkeys(header):
        if name not in valid:
            problems.append(f"row 1: there is no column {shown(name)}; valid columns are {', '.join(valid)}")
        elif header.count(name) > 1:
            problems.append(f"row 1: the column {name} is there {header.count(name)} times")
    missing = [name for name in _REQUIRED if name not in header]
    problems.extend(f"row 1: the column {name} is missing; it is required" for name in missing)
    return {} if missing else {name: header.index(name) for name in valid if name in header}


def _row(
    number: int, cells: Sequence[str], width: int, columns: Mapping[str, int], folder: Path, problems: list[str]
) -> ManifestRow | None:
    if len(cells) != width:
        problems.append(f"row {number} has {len(cells)} cells, and the header has {width}")
        return None
    before = len(problems)
    cell = {name: cells[place] for name, place in columns.items()}
    submission = _name("submission", cell["submission"], number, problems)
    team = _name("team", cell["team"], number, problems)
    image = _image(cell["image"], number, folder, problems)
    if cell["kind"] not in _KINDS:
        problems.append(f"row {number}, column kind: {shown(cell['kind'])} is not one of {', '.join(_KINDS)}")
    score = _number("public_score", cell.get("public_score", ""), number, problems)
    runtime = _number("public_runtime_seconds", cell.get("public_runtime_seconds", ""), number, problems)
    if runtime is not None and runtime <= 0:
        problems.append(f"row {number}, column public_runtime_seconds: {runtime:g} is not more than 0")
    if len(problems) > before or image is None:
        return None
    return ManifestRow(
        row=number,
        submission=submission,
        team=team,
        image=image,
        kind="gpu" if cell["kind"] == "gpu" else "cpu",
        public_score=score,
        public_runtime_seconds=runtime,
    )


def _name(column: str, text: str, number: int, problems: list[str]) -> str:
    place = f"row {number}, column {column}" if number else column
    text = unicodedata.normalize("NFC", text)
    if not text:
        problems.append(f"{place}: it is empty; every submission has one")
    elif len(text) > _MAX_NAME:
        problems.append(f"{place}: it has {len(text)} characters; {_MAX_NAME} is the most")
    elif any(unicodedata.category(character) in _UNPRINTABLE for character in text):
        problems.append(f"{place}: {shown(text)} holds a control or an invisible character")
    return text


def _image(text: str, number: int, folder: Path, problems: list[str]) -> ImageSource | None:
    if not text:
        problems.append(f"row {number}, column image: it is empty; every submission has one")
        return None
    if len(text) > _MAX_CELL:
        problems.append(f"row {number}, column image: it has {len(text)} characters; {_MAX_CELL} is the most")
        return None
    try:
        return parse_source(text, folder)
    except ConfigurationError as error:
        problems.append(f"row {number}, column image: {error.message.rstrip('.')}; {error.hint.rstrip('.')}")
        return None


def _number(column: str, text: str, number: int, problems: list[str]) -> float | None:
    if not text:
        return None
    value = float(text) if len(text) <= 64 and _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        problems.append(
            f"row {number}, column {column}: {shown(text, 40)} is no finite number; write such as 0.53, or nothing"
        )
        return None
    return value


def _across(rows: Sequence[ManifestRow], finals_per_team: int) -> list[str]:
    """What is wrong between rows: a submission twice, or more finals of a team than allowed."""
    problems = []
    first: dict[str, int] = {}
    teams: dict[str, list[int]] = {}
    for row in rows:
        if row.submission in first:
            problems.append(
                f"row {row.row}, column submission: {shown(row.submission)} is in row {first[row.submission]} already"
            )
        first.setdefault(row.submission, row.row)
        teams.setdefault(row.team, []).append(row.row)
    for team, numbers in teams.items():
        if len(numbers) > finals_per_team:
            listed = ", ".join(str(number) for number in numbers[:20])
            problems.append(
                f"column team: {shown(team)} has {len(numbers)} submissions (rows {listed}); "
                f"finals_per_team allows {finals_per_team}"
            )
    return problems


class BlindKey:
    """The secret from which blind ids are made. Who has it can tell whose submission is whose."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> BlindKey:
        """The key in `path`, made if there is none: 32 random bytes that only this user can read.

        Raises:
            HostError: it cannot be read or made.
            ConfigurationError: it is not a key, or others can read it.
        """
        key = open_secret(path, "blind key", lambda: secrets.token_bytes(_KEY_BYTES))
        if len(key) != _KEY_BYTES:
            raise ConfigurationError(
                f"{path} is not a blind key of {_KEY_BYTES} bytes.",
                hint="Restore it from a backup: with another key every blind id would change.",
            )
        return cls(key)

    def commitment(self, salt: bytes | None = None) -> tuple[str, str]:
        """Salt and digest (hexadecimal) that bind us to this key without showing it, for the ledger.

        With the key published later, anyone can check that the blind ids were not chosen after the fact.
        """
        salt = secrets.token_bytes(16) if salt is None else salt
        return salt.hex(), hashlib.sha256(b"referee blind key\0" + salt + self._key).hexdigest()

    def matches(self, salt: str, digest: str) -> bool:
        """Whether a commitment was made to this key."""
        return hmac.compare_digest(self.commitment(bytes.fromhex(salt))[1], digest)

    def submission_ids(self, names: Iterable[str], taken: Mapping[str, str] | None = None) -> dict[str, str]:
        """Blind ids `s-…` by submission; `taken` are those given earlier, which stay."""
        return self._ids("s", names, taken or {})

    def team_ids(self, names: Iterable[str], taken: Mapping[str, str] | None = None) -> dict[str, str]:
        """Blind ids `t-…` by team; `taken` are those given earlier, which stay."""
        return self._ids("t", names, taken or {})

    def _ids(self, letter: str, names: Iterable[str], taken: Mapping[str, str]) -> dict[str, str]:
        """Six hexadecimal digits; more where two would be equal (likely from some 4,800 names on)."""
        given = dict(taken)
        used = set(given.values())
        wanted = sorted(set(names))
        for name in wanted:
            if name not in given:
                given[name] = next(candidate for candidate in self._candidates(letter, name) if candidate not in used)
                used.add(given[name])
        return {name: given[name] for name in wanted}

    def _candidates(self, letter: str, name: str) -> Iterable[str]:
        turn = 0
        while True:
            message = f"{letter}\0{turn}\0{name}".encode()
            digits = hmac.new(self._key, message, hashlib.sha256).hexdigest()
            for length in range(_SHORTEST_ID, _LONGEST_ID + 1):
                yield f"{letter}-{digits[:length]}"
            turn += 1
