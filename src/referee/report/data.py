"""What a report tells: plain frozen facts that follow from the ledger's rows. Nothing here reads or draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from referee.challenge import Challenge, markets
from referee.ledger.queries import AttemptRow, EvaluationRow
from referee.prospects.hindsight import Hindsight
from referee.report.bill import Bill, bill
from referee.report.machine_bill import MachineBill
from referee.report.review import Review
from referee.scoring.analysis import Analysis
from referee.scoring.leaderboard import Leaderboard
from referee.scoring.shakeup import ShakeUp, shake_up
from referee.verdicts import MEANINGS, Blame, Verdict


@dataclass(frozen=True, slots=True)
class Run:
    """The attempt that an evaluation's verdict rests on, as it was measured from outside.

    `peak_memory_bytes` and `wall_seconds` are the submission's own; `preparation_seconds` is what the host added.
    """

    submission: str
    verdict: Verdict
    machine_type: str
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    preparation_seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """How many evaluations ended in one verdict other than ok, and how many attempts did on the way."""

    verdict: Verdict
    blame: Blame
    meaning: str
    evaluations: int
    attempts: int


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that the page says.

    Attributes:
        title: the challenge's title, or its name.
        phase: which phase this is about.
        as_of: time of the last recorded event; the same ledger gives the same report, byte for byte.
        board: the leaderboard, with the public board beside it where there is one.
        total: evaluations of the phase.
        ended: of them, those that have ended.
        valid: of them, those that gave valid predictions.
        attempts: that were made for them.
        runs: one for each evaluation that has ended and was measured.
        failures: by verdict, the most frequent first.
        bill: what it cost, further runs (the pilot's probes, reproduction, rejudging, confirmation) among it.
        further: by purpose, attempts and bill of these.
        machine_bill: what the engine's machines cost over their lives, for all phases; None where it hires none.
        wall_limit: the challenge's limit of wall time, on the reference machine.
        memory_limit_bytes: the challenge's limit of memory.
        facts: further lines of small print, as (what, value).
        accepted_risks: what the operator accepted, by name.
        shake_up: how the public board foretold this one; None if there is no public board.
        analysis: what the scores are worth; None if it was not asked for. Names of items in it are not told.
        hindsight: what was forecast and what came; None if nothing was forecast.
        review: reproduction, rejudgings and confirmations.
    """

    title: str
    phase: str
    as_of: datetime
    board: Leaderboard
    total: int
    ended: int
    valid: int
    attempts: int
    runs: tuple[Run, ...]
    failures: tuple[Failure, ...]
    bill: Bill
    further: dict[str, Bill]
    wall_limit: timedelta
    memory_limit_bytes: int
    facts: tuple[tuple[str, str], ...] = ()
    accepted_risks: tuple[str, ...] = ()
    shake_up: ShakeUp | None = None
    analysis: Analysis | None = None
    hindsight: Hindsight | None = None
    review: Review = field(default_factory=Review)
    machine_bill: MachineBill | None = None


def report_data(
    challenge: Challenge,
    board: Leaderboard,
    *,
    evaluations: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    as_of: datetime,
    facts: Sequence[tuple[str, str]] = (),
    accepted_risks: Sequence[str] = (),
    public: Leaderboard | None = None,
    analysis: Analysis | None = None,
    hindsight: Hindsight | None = None,
    review: Review | None = None,
    machine_bill: MachineBill | None = None,
) -> ReportData:
    """What there is to say about `board.phase`.

    Args:
        challenge: the challenge; its prices and limits are told.
        board: the phase's leaderboard, as it is to be shown.
        evaluations: as the ledger holds them; those of other phases are left out.
        attempts: as the ledger holds them; likewise.
        as_of: time of the last recorded event.
        facts: further lines of small print (digests, versions), as (what, value).
        accepted_risks: names of the risks that the operator accepted.
        public: the board of the public phase that stands beside; the shake-up is told from it.
        analysis: what the scores are worth (`scoring.analysis.analyse_phase`).
        hindsight: what was forecast and what came (`prospects.hindsight`).
        review: reproduction, rejudgings and confirmations (`report.review.review`).
        machine_bill: of the machines that the engine hired (`report.machine_bill.machine_bill`).
    """
    mine = [row for row in evaluations if row.phase == board.phase]
    names = {row.evaluation for row in mine}
    rested_on = {row.attempt for row in mine}  # after a rejudging, a further run's
    tried = [row for row in attempts if row.evaluation in names or row.attempt in rested_on]
    further = [row for row in attempts if f".{board.phase}." in row.evaluation and row.attempt not in rested_on]
    return ReportData(
        title=challenge.title or challenge.name,
        phase=board.phase,
        as_of=as_of,
        board=board,
        total=len(mine),
        ended=sum(row.verdict is not None for row in mine),
        valid=sum(row.verdict is Verdict.OK for row in mine),
        attempts=len(tried),
        runs=_runs(mine, tried),
        failures=_failures(mine, tried),
        bill=bill((*tried, *further), markets(challenge.machines)),
        further=_further(further, challenge),
        wall_limit=challenge.limits.wall_time,
        memory_limit_bytes=challenge.limits.memory,
        facts=tuple(facts),
        accepted_risks=tuple(accepted_risks),
        shake_up=shake_up(public, board) if public else None,
        analysis=analysis,
        hindsight=hindsight,
        review=review or Review(),
        machine_bill=machine_bill,
    )


def _further(attempts: Sequence[AttemptRow], challenge: Challenge) -> dict[str, Bill]:
    # A further run is called like the official one, with its series behind, which is called by its purpose.
    purposes = {row.attempt: row.evaluation.rsplit(".", 1)[1].split("-", 1)[0] for row in attempts}
    return {
        purpose: bill([row for row in attempts if purposes[row.attempt] == purpose], markets(challenge.machines))
        for purpose in sorted(set(purposes.values()))
    }


def _runs(evaluations: Sequence[EvaluationRow], attempts: Sequence[AttemptRow]) -> tuple[Run, ...]:
    by_name = {row.attempt: row for row in attempts}
    runs = []
    for row in sorted(evaluations, key=lambda row: row.submission):
        attempt = by_name.get(row.attempt or "")
        if row.verdict is None or row.copied_from or attempt is None or attempt.measurements is None:
            continue
        measured = attempt.measurements
        runs.append(
            Run(
                submission=row.submission,
                verdict=row.verdict,
                machine_type=attempt.machine_type,
                wall_seconds=measured.wall_seconds,
                cpu_seconds=measured.cpu_seconds,
                peak_memory_bytes=measured.peak_memory_bytes,
                preparation_seconds=measured.preparation_seconds,
            )
        )
    return tuple(runs)


def _failures(evaluations: Sequence[EvaluationRow], attempts: Sequence[AttemptRow]) -> tuple[Failure, ...]:
    ended = Counter(row.verdict for row in evaluations if row.verdict is not None)
    tried = Counter(row.verdict for row in attempts if row.verdict is not None)
    found = [
        Failure(verdict, MEANINGS[verdict].blame, MEANINGS[verdict].meaning, ended[verdict], tried[verdict])
        for verdict in Verdict
        if verdict is not Verdict.OK and (ended[verdict] or tried[verdict])
    ]
    return tuple(sorted(found, key=lambda failure: (-failure.evaluations, -failure.attempts, failure.verdict)))
