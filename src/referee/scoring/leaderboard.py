"""The leaderboard: who is ranked where, who is not ranked and why. A pure function of what the ledger holds.

Ties: submissions whose scores are the same float64 share the best of their ranks, and the ranks behind them are left
out (1, 2, 2, 4). Nothing is rounded before it is compared. Whoever has no score has no rank.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from referee.ledger.queries import EvaluationRow, RefusalRow, RulingRow, ScoreRow, SubmissionRow
from referee.rulings import PAST, Ruling
from referee.scoring.metric import Metric
from referee.verdicts import MEANINGS, Blame, Verdict

NOT_SCORED = "It was not scored yet."
SEALED = "Scores are sealed until release."
# A name with `\|` would otherwise begin a cell of its own, with a score of its own; the others HTML, links, code.
_ACTIVE = re.compile(r"[\\|<\[`]")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Row:
    """A ranked submission.

    Attributes:
        rank: 1 is the best; shared by equal scores.
        submission: blind id.
        team: blind id of the team.
        score: by the primary metric.
        secondary: scores by the secondary metrics; None where a metric is undefined.
        public_rank: rank on the public phase that is shown beside, if it was run there.
        public_score: score on it.
        name: the submission's own name, only on an unblinded board.
        team_name: the team's own name, only on an unblinded board.
    """

    rank: int
    submission: str
    team: str
    score: float
    secondary: tuple[float | None, ...] = ()
    public_rank: int | None = None
    public_score: float | None = None
    name: str | None = None
    team_name: str | None = None


@dataclass(frozen=True, slots=True)
class Unscored:
    """A submission without a score.

    Attributes:
        verdict: how its evaluation ended; None while it has not.
        blame: whose doing that was.
        reason: what is in the way of a score, one sentence.
    """

    submission: str
    team: str
    verdict: Verdict | None
    blame: Blame
    reason: str
    name: str | None = None
    team_name: str | None = None


@dataclass(frozen=True, slots=True)
class Ruled:
    """A submission that was taken off the board by hand.

    Attributes:
        ruling: whether it is disqualified or withdrawn.
        reason: in the operator's words.
        score: what it scored by the primary metric, if it did; it has no rank.
    """

    submission: str
    team: str
    ruling: Ruling
    reason: str
    score: float | None
    name: str | None = None
    team_name: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """What a constant prediction of 0.5 for every item scores; `rank` is the rank that it would have."""

    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """A phase's board.

    Attributes:
        metric: name of the primary metric.
        greater_is_better: its direction.
        secondary: names of the secondary metrics.
        rows: the ranked ones, best first; within a tie by blind id.
        unscored: the others, by blind id.
        reference: the constant-0.5 line; None where it is undefined or needs labels that were not at hand.
        public_phase: the phase that is shown beside; None if there is none.
        complete: every evaluation has ended and every valid result was looked at by the scorer.
        ruled: who was taken off the board by hand, by blind id; the ranks are those without them.
    """

    phase: str
    metric: str
    greater_is_better: bool
    secondary: tuple[str, ...]
    rows: tuple[Row, ...]
    unscored: tuple[Unscored, ...]
    reference: Reference | None
    public_phase: str | None
    complete: bool
    ruled: tuple[Ruled, ...] = ()

    @property
    def submissions(self) -> tuple[str, ...]:
        """Every submission that the board names, ranked or not."""
        entries: tuple[Row | Unscored | Ruled, ...] = (*self.rows, *self.unscored, *self.ruled)
        return tuple(entry.submission for entry in entries)

    def to_json(self, accepted_risks: Sequence[str] = ()) -> str:
        """The board as JSON. `phase`, `metric`, `rows` and `unscored` with their first keys are stable for scripts.

        `accepted_risks` is the last key where the operator accepted any, and left out otherwise: boards in bundles and
        the digests of rejudgings are of the board alone.
        """
        document = self._document() | ({"accepted_risks": list(accepted_risks)} if accepted_risks else {})
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """The board as CSV (RFC 4180); at the end, with neither rank nor score, who has none and who was ruled off."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        named = self._is_named
        header = ["rank", "submission", "team", "score", *self.secondary]
        header += ["public_rank", "public_score"] if self.public_phase else []
        rulings = ["ruling"] if self.ruled else []
        writer.writerow([*header, "verdict", "blame", *rulings, "reason", *(["name", "team_name"] if named else [])])
        stands = [""] * len(rulings)
        for row in self.rows:
            public = [_cell(row.public_rank), _cell(row.public_score)] if self.public_phase else []
            scores = [_cell(row.score), *(_cell(value) for value in row.secondary)]
            names = [no_formula(row.name), no_formula(row.team_name)] if named else []
            writer.writerow([row.rank, row.submission, row.team, *scores, *public, "ok", "none", *stands, "", *names])
        for left in self.unscored:
            empty = [""] * (len(header) - 3)
            names = [no_formula(left.name), no_formula(left.team_name)] if named else []
            facts = [left.verdict or "", left.blame, *stands, no_formula(left.reason)]
            writer.writerow(["", left.submission, left.team, *empty, *facts, *names])
        for off in self.ruled:
            empty = [""] * (len(header) - 1)
            names = [no_formula(off.name), no_formula(off.team_name)] if named else []
            writer.writerow(["", off.submission, off.team, *empty, PAST[off.ruling], no_formula(off.reason), *names])
        return text.getvalue()

    def to_markdown(self, digits: int = 5) -> str:
        """The board as Markdown tables, scores rounded to `digits` places for reading."""
        lines = [f"# {self.phase}", "", f"Metric: {self.metric} ({self._direction}).", ""]
        head = ["rank", "submission", "team", self.metric, *self.secondary]
        head += [f"rank on {self.public_phase}", f"score on {self.public_phase}"] if self.public_phase else []
        lines += _table(head, [self._cells(row, digits) for row in self.rows])
        if self.reference is not None:
            lines += ["", f"A constant 0.5 scores {self.reference.score:.{digits}f} (rank {self.reference.rank})."]
        if self.unscored:
            rows = [[_label(u), _team(u), u.verdict or "", u.blame, u.reason] for u in self.unscored]
            lines += ["", "## Without a score", "", *_table(["submission", "team", "verdict", "blame", "reason"], rows)]
        if self.ruled:
            rows = [[_label(r), _team(r), PAST[r.ruling], _rounded(r.score, digits), r.reason] for r in self.ruled]
            head = ["submission", "team", "ruling", self.metric, "reason"]
            lines += ["", "## Taken off the board", "", *_table(head, rows)]
        return "\n".join(lines) + "\n"

    @property
    def _direction(self) -> str:
        return "greater is better" if self.greater_is_better else "smaller is better"

    @property
    def _is_named(self) -> bool:
        everyone: tuple[Row | Unscored | Ruled, ...] = (*self.rows, *self.unscored, *self.ruled)
        return any(entry.name is not None for entry in everyone)

    def _cells(self, row: Row, digits: int) -> list[str]:
        scores = [row.score, *row.secondary, *([row.public_score] if self.public_phase else [])]
        shown = [_rounded(value, digits) for value in scores]
        public = [_cell(row.public_rank), shown.pop()] if self.public_phase else []
        return [str(row.rank), _label(row), _team(row), *shown, *public]

    def _document(self) -> dict[str, Any]:
        reference = self.reference and {"prediction": 0.5, "score": self.reference.score, "rank": self.reference.rank}
        return {
            "phase": self.phase,
            "metric": self.metric,
            "rows": [self._row_document(row) for row in self.rows],
            "unscored": [
                {"submission": u.submission, "verdict": u.verdict, "blame": u.blame, "team": u.team, "reason": u.reason}
                | _names(u)
                for u in self.unscored
            ],
            "greater_is_better": self.greater_is_better,
            "reference": reference,
            "public_phase": self.public_phase,
            "complete": self.complete,
            "ruled": [
                {"submission": r.submission, "ruling": r.ruling, "team": r.team, "score": r.score, "reason": r.reason}
                | _names(r)
                for r in self.ruled
            ],
        }

    def _row_document(self, row: Row) -> dict[str, Any]:
        document: dict[str, Any] = {
            "rank": row.rank,
            "submission": row.submission,
            "score": row.score,
            "team": row.team,
            "secondary": dict(zip(self.secondary, row.secondary, strict=True)),
        }
        if self.public_phase:
            document["public"] = {"rank": row.public_rank, "score": row.public_score}
        return document | _names(row)


def leaderboard(
    phase: str,
    metrics: Sequence[Metric],
    evaluations: Sequence[EvaluationRow],
    scores: Sequence[ScoreRow],
    *,
    reference_score: float | None = None,
    public: Leaderboard | None = None,
    refusals: Sequence[RefusalRow] = (),
    rulings: Sequence[RulingRow] = (),
    held: Sequence[tuple[SubmissionRow, str]] = (),
) -> Leaderboard:
    """The board of one phase.

    Args:
        phase: its name; evaluations and scores of other phases are left out.
        metrics: the primary metric and after it the secondary ones (`chosen_metrics`).
        evaluations: as the ledger holds them.
        scores: as the ledger holds them.
        reference_score: what a constant 0.5 scores (`metric.constant_half`).
        public: the board of the public phase, to be shown beside this one.
        refusals: submissions whose images were refused at import; they are listed without a score.
        rulings: the rulings in force that take submissions off the board (`queries.taken_off`).
        held: submissions that were not evaluated on this phase, with the reason; they are listed without a score.
    """
    primary, *others = metrics
    known = {(score.evaluation, score.metric): score.value for score in scores}
    official = {e.submission: e.evaluation for e in evaluations if e.phase == phase and e.verdict is Verdict.OK}
    off = {ruling.submission for ruling in rulings}
    mine = sorted((e for e in evaluations if e.phase == phase and e.submission not in off), key=lambda e: e.submission)
    scored = [e for e in mine if e.verdict is Verdict.OK and (e.evaluation, primary.name) in known]
    values = [known[e.evaluation, primary.name] for e in scored]
    ranks = competition_ranks(values, greater_is_better=primary.greater_is_better)
    beside = {row.submission: row for row in public.rows} if public else {}
    rows = [
        _row(rank, e, value, tuple(known.get((e.evaluation, m.name)) for m in others), beside.get(e.submission))
        for rank, e, value in zip(ranks, scored, values, strict=True)
    ]
    looked_at = {score.evaluation for score in scores}
    left = [e for e in mine if (e.evaluation, primary.name) not in known or e.verdict is not Verdict.OK]
    return Leaderboard(
        phase=phase,
        metric=primary.name,
        greater_is_better=primary.greater_is_better,
        secondary=tuple(metric.name for metric in others),
        rows=tuple(sorted(rows, key=lambda row: (row.rank, row.submission))),
        unscored=tuple(
            sorted(
                [_unscored(e, primary.name, e.evaluation in looked_at) for e in left]
                + [_refused(r) for r in refusals]
                + [Unscored(s.submission, s.team, None, Blame.NONE, why) for s, why in held if s.submission not in off],
                key=lambda entry: entry.submission,
            )
        ),
        reference=None if reference_score is None else _reference(reference_score, values, primary.greater_is_better),
        public_phase=public.phase if public else None,
        complete=all(
            e.verdict is not None and (e.verdict is not Verdict.OK or e.evaluation in looked_at) for e in mine
        ),
        ruled=tuple(
            Ruled(r.submission, r.team, r.ruling, r.reason, known.get((official.get(r.submission, ""), primary.name)))
            for r in sorted(rulings, key=lambda r: r.submission)
        ),
    )


def competition_ranks(values: Sequence[float], *, greater_is_better: bool) -> list[int]:
    """The rank of each value: one more than the number of strictly better ones, so that ties share the best rank.

    Raises:
        ValueError: if a value is NaN, which has no rank.
    """
    if any(math.isnan(value) for value in values):
        raise ValueError("a missing score cannot be ranked")
    first: dict[float, int] = {}
    for place, value in enumerate(sorted(values, reverse=greater_is_better), start=1):
        first.setdefault(value, place)
    return [first[value] for value in values]


def unblinded(board: Leaderboard, names: Mapping[str, tuple[str, str]]) -> Leaderboard:
    """The board with (submission name, team name) beside the blind ids. The caller records that this was done."""

    def named(entry: Any) -> Any:
        name, team_name = names.get(entry.submission, (None, None))
        return replace(entry, name=name, team_name=team_name)

    rows, unscored, ruled = (tuple(map(named, entries)) for entries in (board.rows, board.unscored, board.ruled))
    return replace(board, rows=rows, unscored=unscored, ruled=ruled)


def _row(rank: int, e: EvaluationRow, value: float, secondary: tuple[float | None, ...], public: Row | None) -> Row:
    return Row(
        rank=rank,
        submission=e.submission,
        team=e.team,
        score=value,
        secondary=secondary,
        public_rank=public.rank if public else None,
        public_score=public.score if public else None,
    )


def _unscored(e: EvaluationRow, metric: str, looked_at: bool) -> Unscored:
    if e.verdict is None:
        return Unscored(e.submission, e.team, None, Blame.NONE, "The evaluation has not ended.")
    meaning = MEANINGS[e.verdict]
    if e.verdict is not Verdict.OK:
        return Unscored(e.submission, e.team, e.verdict, meaning.blame, meaning.meaning)
    reason = f"The metric {metric} is undefined for these predictions." if looked_at else NOT_SCORED
    return Unscored(e.submission, e.team, e.verdict, meaning.blame, reason)


def _refused(row: RefusalRow) -> Unscored:
    meaning = MEANINGS[Verdict.BAD_IMAGE]
    return Unscored(row.submission, row.team, Verdict.BAD_IMAGE, meaning.blame, f"Refused at import: {row.reason}")


def _reference(score: float, values: Sequence[float], greater_is_better: bool) -> Reference:
    better = sum(value > score if greater_is_better else value < score for value in values)
    return Reference(score, 1 + better)


def _names(entry: Row | Unscored | Ruled) -> dict[str, str | None]:
    return {} if entry.name is None else {"name": entry.name, "team_name": entry.team_name}


def _label(entry: Row | Unscored | Ruled) -> str:
    return entry.submission if entry.name is None else f"{entry.submission} ({entry.name})"


def _team(entry: Row | Unscored | Ruled) -> str:
    return entry.team if entry.team_name is None else f"{entry.team} ({entry.team_name})"


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def _rounded(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def no_formula(text: str | None) -> str:
    """A cell that a spreadsheet shows and does not run: names are the participants' own, and reasons may quote them."""
    return "" if text is None else f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(_ACTIVE.sub(r"\\\g<0>", cell).split()) for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]
