"""Kaggle's public leaderboard, as its page offers it for download: a row for each team, with its best public score.

Newer files have the columns Rank, TeamId, TeamName, LastSubmissionDate, Score, SubmissionCount and TeamMemberUserNames;
older ones TeamId, TeamName, SubmissionDate and Score, with a row for each time that a team improved. Of several rows of
a team the latest counts. Other columns are left aside.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from referee.digests import digest_of
from referee.errors import ConfigurationError

MAX_BYTES = 16 * 2**20  # some ten times that of the largest competitions
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_DATES = ("LastSubmissionDate", "SubmissionDate")
_SHOWN = 5
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Standing:
    """A team on the leaderboard. `rank` is the file's own, or follows from the order of the scores in it."""

    team: str
    score: float
    rank: int
    date: str


@dataclass(frozen=True, slots=True)
class Kaggleboard:
    """A leaderboard. `digest` is `sha256:…` of the file; `standings` by the team's name, and by its id if any."""

    digest: str
    standings: Mapping[str, Standing]
    teams: int


@dataclass(frozen=True, slots=True)
class Matched:
    """What the leaderboard says of a manifest's submissions.

    Attributes:
        standings: by submission.
        several: teams with several submissions, and no public score in the manifest that tells which of them it was.
        missing: teams that are not on the leaderboard.
    """

    standings: Mapping[str, Standing]
    several: tuple[str, ...]
    missing: tuple[str, ...]


def read_leaderboard(path: Path, *, greater_is_better: bool) -> Kaggleboard:
    """Read a leaderboard.

    Args:
        path: of the CSV file.
        greater_is_better: of the challenge's metric, for ranks where the file has none.

    Raises:
        ConfigurationError: if it is not one, with the row.
    """
    data = _read(path)
    try:
        # Blank rows are dropped as they come: as a list, a file of nothing else would take gigabytes.
        table = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(number, cells) for number, cells in enumerate(table, start=1) if number == 1 or any(cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused(path, f"it is not CSV in UTF-8 ({error})") from error
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    shown = ", ".join(header)[:_SHOWN_CHARACTERS] or "none"
    for name in ("TeamName", "Score"):
        if header.count(name) != 1:
            raise _refused(path, f"its first row must have the column {name} once; it has {shown}")
    date_column = next((name for name in _DATES if name in header), None)
    latest: dict[str, tuple[str, float, int | None, str]] = {}
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise _refused(path, f"row {number} has {len(cells)} cells, and the header has {len(header)}")
        cell = dict(zip(header, (text.strip() for text in cells), strict=True))
        team = unicodedata.normalize("NFC", cell["TeamName"])
        score = float(cell["Score"]) if _NUMBER.fullmatch(cell["Score"]) else math.nan
        rank = cell.get("Rank", "")
        if not math.isfinite(score):
            raise _refused(path, f"row {number}: the score {cell['Score'][:40]!r} is no finite number")
        if rank and not (rank.isascii() and rank.isdigit() and len(rank) <= 9 and int(rank) > 0):
            raise _refused(path, f"row {number}: the rank {rank[:40]!r} is no rank")
        key = cell.get("TeamId", "") or team
        date = cell[date_column] if date_column else ""
        if key in latest and date <= latest[key][3]:
            if date == latest[key][3]:
                raise _refused(path, f"row {number}: the team {team[:60]!r} is there twice, at the same time")
            continue
        latest[key] = (team, score, int(rank) if rank else None, date)
    return Kaggleboard(digest_of(data), _standings(latest, greater_is_better), len(latest))


def match(board: Kaggleboard, rows: Iterable[tuple[str, str, float | None]]) -> Matched:
    """Which submission of a manifest each team's standing is of.

    A team's score is that of one of its submissions. With one in the manifest it is that one; with several it is the
    one whose recorded public score is the same, and otherwise it cannot be told.

    Args:
        board: the leaderboard.
        rows: (submission, team, public score or None) as in the manifest.
    """
    by_team: dict[str, list[tuple[str, float | None]]] = {}
    for submission, team, score in rows:
        by_team.setdefault(team, []).append((submission, score))
    found: dict[str, Standing] = {}
    several, missing = [], []
    for team, own in by_team.items():
        standing = board.standings.get(team)
        if standing is None:
            missing.append(team)
            continue
        those = [name for name, score in own if score == standing.score] or [name for name, _ in own if len(own) == 1]
        if those:
            found[those[0]] = standing
        else:
            several.append(team)
    return Matched(found, tuple(several), tuple(missing))


def _standings(
    latest: Mapping[str, tuple[str, float, int | None, str]], greater_is_better: bool
) -> dict[str, Standing]:
    scores = sorted((score for _, score, _, _ in latest.values()), reverse=greater_is_better)
    first: dict[float, int] = {}
    for place, score in enumerate(scores, start=1):
        first.setdefault(score, place)
    found: dict[str, Standing] = {}
    named: dict[str, list[Standing]] = {}
    for key, (team, score, rank, date) in latest.items():
        standing = Standing(team, score, rank or first[score], date)
        found[key] = standing
        named.setdefault(team, []).append(standing)
    # Two teams of one name can be told apart by their ids only.
    return found | {team: those[0] for team, those in named.items() if len(those) == 1 and team not in found}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", hint="Give the path of Kaggle's leaderboard as CSV."
        ) from error
    if len(data) > MAX_BYTES:
        raise _refused(path, f"it is larger than {MAX_BYTES >> 20} MiB")
    return data


def _refused(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not Kaggle's leaderboard: {why}.",
        hint="On the competition's page: Leaderboard, Raw Data; unpack what you get.",
    )


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
