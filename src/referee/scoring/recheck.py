"""The reproduction check of a whole phase: `recheck_phase` is for the controller, `recheck` for the scoring process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from referee.challenge import Frozen, MetricChoice, PredictionFormat, ReproductionChoice
from referee.errors import CheckFailedError
from referee.ledger.queries import AttemptRow, EvaluationRow
from referee.objects import ObjectStore
from referee.scoring.metric import Floats, Metric
from referee.scoring.recorded import RecordedScore
from referee.scoring.reproduction import Recorded, Reproduction, Rerun, Tolerance, check_reproduction
from referee.scoring.scorer import Result, ScoringLimits, ask_scorer, scoring_order, valid_results
from referee.verdicts import Verdict

FOUND = TypeAdapter(tuple[Reproduction, ...])


class Compared(Frozen):
    """One submission: how its evaluation ended, the evaluations whose predictions count, and what was recorded.

    `runs` begins with the official one, which rests on the first valid attempt.
    """

    submission: str
    verdict: Verdict
    runs: tuple[str, ...] = ()
    hardware: str | None = None
    recorded_score: float | None = None
    recorded_hardware: str | None = None


class RecheckOrder(Frozen):
    """What the scoring process is told."""

    choice: ReproductionChoice
    compared: tuple[Compared, ...]


def recheck_phase(
    phase: str,
    *,
    evaluations: Sequence[EvaluationRow],
    further: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    scores: Mapping[str, RecordedScore],
    files: Mapping[str, Path],
    store: ObjectStore,
    names: Sequence[str],
    labels: Path,
    labels_digest: str,
    metric: MetricChoice,
    layout: PredictionFormat,
    choice: ReproductionChoice,
    limit_bytes: int,
    limits: ScoringLimits | None = None,
) -> tuple[Reproduction, ...]:
    """Compare every evaluation of a phase that has ended with what was recorded of the submission.

    Args:
        phase: the phase's name.
        evaluations: the official ones, as the ledger holds them.
        further: further runs on the phase; valid ones show the spread from run to run.
        attempts: of all of these.
        scores: recorded scores, by submission.
        files: recorded prediction files, by submission.
        store: the object store.
        names: the phase's files.
        labels: the label file.
        labels_digest: `sha256:…` of it, as the ledger holds it.
        metric: the metrics that the phase is scored by; the primary one is compared.
        layout: how prediction and label files look.
        choice: what counts as the same.
        limit_bytes: no prediction file is larger.
        limits: of the scoring process.

    Raises:
        CheckFailedError: if a valid result cannot be read any more.
        RefereeError: as `scorer.ask_scorer`.
    """
    ended = [row for row in evaluations if row.phase == phase and row.verdict is not None]
    rests_on = {row.attempt for row in ended}
    others = [row for row in further if row.phase == phase and row.attempt not in rests_on]
    results = (*valid_results(phase, ended, attempts), *valid_results(phase, others, attempts))
    compared = _compared(ended, results, attempts, scores)
    document = scoring_order("reproduction", names, labels, labels_digest, metric, layout)
    document["reproduction"] = RecheckOrder(choice=choice, compared=compared).model_dump(mode="json")
    generous = limits or ScoringLimits(memory_bytes=8 * 2**30)
    answer, refused = ask_scorer(
        document, results, store, limit_bytes=limit_bytes, limits=generous, recorded=dict(files)
    )
    if refused:
        raise CheckFailedError(
            "Valid results could not be compared: " + "; ".join(f"{r.evaluation}: {r.reason}" for r in refused),
            hint="Find out what happened to these results in the object store.",
        )
    return FOUND.validate_python(answer["reproduction"])


def _compared(
    ended: Sequence[EvaluationRow],
    results: Sequence[Result],
    attempts: Sequence[AttemptRow],
    scores: Mapping[str, RecordedScore],
) -> tuple[Compared, ...]:
    """What is told of each submission; `results` begin with the official ones."""
    machines = {attempt.attempt: attempt.machine_type for attempt in attempts}
    runs: dict[str, list[str]] = {}
    for result in results:
        runs.setdefault(result.submission, []).append(result.evaluation)
    return tuple(
        Compared(
            submission=row.submission,
            verdict=row.verdict or Verdict.NODE_LOST,
            runs=tuple(runs.get(row.submission, ())),
            hardware=machines.get(row.attempt or ""),
            recorded_score=scores[row.submission].score if row.submission in scores else None,
            recorded_hardware=scores[row.submission].hardware if row.submission in scores else None,
        )
        for row in sorted(ended, key=lambda row: row.submission)
    )


def recheck(
    order: RecheckOrder, metric: Metric, labels: Floats, predictions: Mapping[str, Floats]
) -> tuple[Reproduction, ...]:
    """The answers, in the order's order; `predictions` by evaluation, and `recorded/SUBMISSION`."""
    allowed = Tolerance(order.choice.tolerance, order.choice.prediction_tolerance)
    return tuple(
        check_reproduction(
            one.submission,
            metric,
            labels,
            Recorded(
                one.recorded_score,
                order.choice.decimals,
                predictions.get(f"recorded/{one.submission}"),
                one.recorded_hardware,
            ),
            Rerun(one.verdict, tuple(predictions[run] for run in one.runs if run in predictions), one.hardware),
            allowed,
        )
        for one in order.compared
    )
