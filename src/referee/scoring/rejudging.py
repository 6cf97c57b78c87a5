"""What a rejudging would change: the rows and the board as they would be, and who moves. Pure; nothing is written here.

`referee.ledger.projections` does to the tables what `applied` does to rows; the tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from referee.challenge import MetricChoice
from referee.digests import digest_of
from referee.ledger.queries import AttemptRow, EvaluationRow, ScoreRow
from referee.scoring.leaderboard import Leaderboard
from referee.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Staged:
    """What a rejudging holds so far.

    Attributes:
        phase: of which phase.
        submissions: whose evaluations are judged again.
        choice: the metrics that stand once it is applied.
        runs: the further runs, where it makes new attempts; None where it only scores again.
        scores: of those runs, or staged beside the official ones.
    """

    phase: str
    submissions: frozenset[str]
    choice: MetricChoice
    runs: tuple[EvaluationRow, ...] | None
    scores: tuple[ScoreRow, ...]

    @property
    def kept(self) -> tuple[EvaluationRow, ...]:
        """Further runs that ended by no doing of the submission: its official result stays as it is."""
        return tuple(run for run in self.runs or () if run.verdict is not None and not run.final)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Submissions whose further run has not ended."""
        if self.runs is None:
            return ()
        return tuple(sorted(self.submissions - {run.submission for run in self.runs if run.verdict is not None}))


@dataclass(frozen=True, slots=True)
class Change:
    """One submission whose verdict, score or rank would change; None where it has none."""

    submission: str
    team: str
    old_verdict: Verdict | None
    new_verdict: Verdict | None
    old_score: float | None
    new_score: float | None
    old_rank: int | None
    new_rank: int | None

    @property
    def moved(self) -> int | None:
        """Places won (positive) or lost; None for who comes onto the board or leaves it."""
        return None if self.old_rank is None or self.new_rank is None else self.old_rank - self.new_rank


def applied(
    evaluations: Sequence[EvaluationRow], scores: Sequence[ScoreRow], staged: Staged
) -> tuple[tuple[EvaluationRow, ...], tuple[ScoreRow, ...]]:
    """The official rows as they are after the rejudging."""
    runs = {run.submission: run for run in staged.runs or () if run.final}
    rows: list[EvaluationRow] = []
    sources: dict[str, str] = {}  # for each evaluation whose scores are replaced, the one that has the new ones
    for row in evaluations:
        mine = row.phase == staged.phase and row.submission in staged.submissions
        if mine and staged.runs is None:
            sources[row.evaluation] = row.evaluation
        elif mine and row.submission in runs:
            run = runs[row.submission]
            sources[row.evaluation] = run.evaluation
            row = replace(  # noqa: PLW2901 - the row as it is from here on
                row,
                verdict=run.verdict,
                final=run.final,
                attempt=run.attempt,
                reason=run.reason,
                ended_at=run.ended_at,
                predictions_digest=run.predictions_digest,
                last_verdict=run.last_verdict,
            )
        rows.append(row)
    new: dict[str, list[ScoreRow]] = {}
    for score in staged.scores:
        new.setdefault(score.evaluation, []).append(score)
    standing = [score for score in scores if score.evaluation not in sources]
    replaced = [
        replace(score, evaluation=evaluation) for evaluation, source in sources.items() for score in new.get(source, ())
    ]
    return tuple(rows), tuple(sorted(standing + replaced, key=lambda score: (score.evaluation, score.metric)))


def changes(old: Leaderboard, new: Leaderboard) -> tuple[Change, ...]:
    """Everything that differs between two boards of a phase, by the new rank, then the old one."""
    before, after = _facts(old), _facts(new)
    found = []
    for submission in sorted(before | after):
        one, other = before.get(submission, _NOTHING), after.get(submission, _NOTHING)
        if one[1:] != other[1:]:
            found.append(Change(submission, other[0] or one[0], one[1], other[1], one[2], other[2], one[3], other[3]))
    last = max(len(before), len(after)) + 1
    return tuple(sorted(found, key=lambda change: (change.new_rank or last, change.old_rank or last)))


_Facts = tuple[str, Verdict | None, float | None, int | None]
_NOTHING: _Facts = ("", None, None, None)


def _facts(board: Leaderboard) -> dict[str, _Facts]:
    found: dict[str, _Facts] = {row.submission: (row.team, Verdict.OK, row.score, row.rank) for row in board.rows}
    found |= {left.submission: (left.team, left.verdict, None, None) for left in board.unscored}
    return found | {off.submission: (off.team, None, off.score, None) for off in board.ruled}


def board_digest(board: Leaderboard) -> str:
    """`sha256:…` of the board's JSON under blind ids: what the ledger keeps of the board before and after."""
    return digest_of(board.to_json())


@dataclass(frozen=True, slots=True)
class Selection:
    """Which evaluations are judged again: all that have ended, or those that every given condition fits.

    Attributes:
        verdicts: how they ended.
        machine_types: where the attempt ran that the verdict rests on.
        submissions: whose they are.
    """

    verdicts: frozenset[Verdict] = frozenset()
    machine_types: frozenset[str] = frozenset()
    submissions: frozenset[str] = frozenset()

    def __str__(self) -> str:
        parts = [
            f"{what} {' or '.join(sorted(values))}"
            for what, values in (
                ("verdict", self.verdicts),
                ("machine type", self.machine_types),
                ("submission", self.submissions),
            )
            if values
        ]
        return ", ".join(parts) or "all"

    def chosen(self, evaluations: Sequence[EvaluationRow], attempts: Sequence[AttemptRow]) -> tuple[EvaluationRow, ...]:
        """Of these evaluations those that are meant, in their order."""
        machines = {attempt.attempt: attempt.machine_type for attempt in attempts}
        return tuple(
            row
            for row in evaluations
            if row.verdict is not None
            and (not self.verdicts or row.verdict in self.verdicts)
            and (not self.machine_types or machines.get(row.attempt or "") in self.machine_types)
            and (not self.submissions or row.submission in self.submissions)
        )
