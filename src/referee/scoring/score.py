"""Scoring what is valid and has no score yet; what has its scores is never scored twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from referee.challenge import MetricChoice, PredictionFormat
from referee.ledger.events import EvaluationScored
from referee.ledger.queries import AttemptRow, EvaluationRow, ScoreRow
from referee.objects import ObjectStore
from referee.scoring.metric import Metric, chosen_metrics
from referee.scoring.scorer import Refused, Result, ScoringLimits, ask_scorer, scoring_order, valid_results


@dataclass(frozen=True, slots=True)
class Scoring:
    """What came of scoring a phase.

    Attributes:
        events: one for each evaluation that got new scores, ready to be appended to the ledger.
        refused: results that are missing, were changed after they were recorded, or are undefined under every metric.
        already: how many evaluations had all their scores.
        reference_score: what a constant 0.5 scores by the primary metric on these labels; None if undefined, or if
            nothing had to be scored.
    """

    events: tuple[EvaluationScored, ...]
    refused: tuple[Refused, ...]
    already: int
    reference_score: float | None


def score_evaluations(
    phase: str,
    *,
    evaluations: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    scores: Sequence[ScoreRow],
    store: ObjectStore,
    names: Sequence[str],
    labels: Path,
    labels_digest: str,
    choice: MetricChoice,
    layout: PredictionFormat,
    limit_bytes: int,
    limits: ScoringLimits | None = None,
    rejudging: str | None = None,
) -> Scoring:
    """Score what is valid on `phase` and has no score yet.

    Args:
        phase: the phase's name.
        evaluations: as the ledger holds them (`queries.evaluations`).
        attempts: as the ledger holds them; where the predictions lie follows from them.
        scores: as the ledger holds them; an evaluation keeps the scores that it has.
        store: the object store.
        names: the phase's files (`PhaseData.names`).
        labels: the label file.
        labels_digest: `sha256:…` of it, as the ledger holds it.
        choice: the challenge's metrics.
        layout: how prediction and label files look.
        limit_bytes: no prediction file is larger (the contract's output limit).
        limits: of the scoring process.
        rejudging: stage the scores under this rejudging; `scores` are then those that are staged already.

    Raises:
        ConfigurationError: if the labels or the metrics are not usable.
        CheckFailedError: if the label file is not the one that the ledger holds.
        HostError: if the scoring process cannot give up the network.
        ScoringError: if the scoring process was ended by its limits.
    """
    due, already = _due(chosen_metrics(choice), valid_results(phase, evaluations, attempts), scores)
    if not due:
        return Scoring((), (), already, None)
    order = scoring_order("score", names, labels, labels_digest, choice, layout)
    answer, refused = ask_scorer(order, list(due), store, limit_bytes=limit_bytes, limits=limits)
    new = {
        result: {metric: values[metric] for metric in missing if metric in values}
        for result, missing in due.items()
        for values in (answer["scores"].get(result.evaluation, {}),)
    }
    events = tuple(
        EvaluationScored(
            evaluation=result.evaluation,
            scores=scores_now,
            predictions_digest=result.predictions_digest,
            labels_digest=labels_digest,
            scorer_version=answer["version"],
            epsilon=repr(choice.epsilon),
            rejudging=rejudging,
        )
        for result, scores_now in new.items()
        if scores_now
    )
    reference = answer["reference"]
    return Scoring(events, tuple(refused), already, None if reference is None else float(reference))


def _due(
    metrics: Sequence[Metric], results: Sequence[Result], scores: Sequence[ScoreRow]
) -> tuple[dict[Result, tuple[str, ...]], int]:
    """The metrics that each result lacks, and how many results lack none."""
    known: dict[str, set[str]] = {}
    for score in scores:
        known.setdefault(score.evaluation, set()).add(score.metric)
    lacking = {
        result: tuple(metric.name for metric in metrics if metric.name not in known.get(result.evaluation, set()))
        for result in results
    }
    due = {result: names for result, names in lacking.items() if names}
    return due, len(lacking) - len(due)
