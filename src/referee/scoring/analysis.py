"""What a board of scores is worth: uncertainty, what decides the prizes, groups of items, look-alikes.

`analyse_phase` is for the controller, which never sees a label; `analyse` runs in the scoring process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from referee.challenge import Frozen, MetricChoice, PredictionFormat, Reduction, UncertaintyChoice
from referee.errors import ConfigurationError
from referee.ledger.queries import AttemptRow, EvaluationRow
from referee.objects import ObjectStore
from referee.scoring.boundary import prize_boundary
from referee.scoring.lookalikes import Likeness, Suspect, look_alikes
from referee.scoring.metadata import read_metadata
from referee.scoring.metric import Floats, MeanMetric, Metric
from referee.scoring.scorer import Refused, Result, ScoringLimits, ask_scorer, scoring_order, valid_results
from referee.scoring.shakeup import reliability, scores_by_group
from referee.scoring.standings import Entry, Standings, standings

_RELIABILITY_OF = 10  # reliability diagrams are drawn of the best entries only


class PrizeBoundary(Frozen):
    """`boundary.Boundary` with names for entries and items."""

    place: int
    winner: str
    runner_up: str
    gap: float
    gap_total: float
    by_removal: tuple[str, ...]
    by_relabelling: tuple[str, ...]
    fewest_removals: int | None
    fewest_relabellings: int | None


class Group(Frozen):
    """Items that share a value of a metadata column, with each submission's score on them (None where undefined)."""

    column: str
    value: str
    items: int
    scores: dict[str, float | None]


class LookAlike(Frozen):
    """`lookalikes.Pair`."""

    one: str
    other: str
    likeness: Likeness
    correlation: float


class ReliabilityPoint(Frozen):
    """`shakeup.ReliabilityBin`."""

    low: float
    high: float
    items: int
    mean_prediction: float
    share_of_fakes: float


class Analysis(Frozen):
    """What was found. Names of items are for the operator alone.

    Attributes:
        standings: None if nobody has a score.
        boundaries: of the declared prize places, between the finals that the entries' ranks rest on; empty where the
            metric is no mean over items, or the mean of a team's finals counts.
        groups: for each metadata column and value.
        look_alikes: pairs across teams.
        reliability: of the ten best submissions.
    """

    standings: Standings | None
    boundaries: tuple[PrizeBoundary, ...] = ()
    groups: tuple[Group, ...] = ()
    look_alikes: tuple[LookAlike, ...] = ()
    reliability: dict[str, tuple[ReliabilityPoint, ...]] = Field(default_factory=dict)


class SuspectFacts(Frozen):
    """What is known of a result besides its predictions. `finals` is its place among its team's finals."""

    submission: str
    team: str
    image: str
    predictions_digest: str
    final: int = 0


class AnalysisOrder(Frozen):
    """What the scoring process is told. `results` is by evaluation; `metadata` is a path, or None."""

    choice: UncertaintyChoice
    results: dict[str, SuspectFacts]
    metadata: Path | None = None
    id_column: str = "filename"


def analyse_phase(
    phase: str,
    *,
    evaluations: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    store: ObjectStore,
    names: Sequence[str],
    labels: Path,
    labels_digest: str,
    metadata: Path | None,
    metric: MetricChoice,
    layout: PredictionFormat,
    uncertainty: UncertaintyChoice,
    limit_bytes: int,
    finals: Sequence[str] = (),
    limits: ScoringLimits | None = None,
) -> tuple[Analysis, tuple[Refused, ...]]:
    """Analyse the valid results of a phase in the scoring process.

    Args:
        phase: the phase's name.
        evaluations: as the ledger holds them.
        attempts: as the ledger holds them.
        store: the object store.
        names: the phase's files.
        labels: the label file.
        labels_digest: `sha256:…` of it, as the ledger holds it.
        metadata: the metadata file, if there is one.
        metric: the challenge's metrics; the primary one is analysed.
        layout: how prediction and label files look.
        uncertainty: as declared.
        limit_bytes: no prediction file is larger.
        finals: all submissions in the order in which they were handed in, for teams whose last final counts; by
            default in the order of their blind ids.
        limits: of the scoring process.

    Raises:
        RefereeError: as `scorer.ask_scorer`.
    """
    results = valid_results(phase, evaluations, attempts)
    place = {submission: number for number, submission in enumerate(finals)}
    order = AnalysisOrder(
        choice=uncertainty,
        results={result.evaluation: _facts(result, place) for result in results},
        metadata=None if metadata is None else metadata.absolute(),
        id_column=layout.id_column,
    )
    document = scoring_order("analysis", names, labels, labels_digest, metric, layout)
    document["analysis"] = order.model_dump(mode="json")
    generous = limits or ScoringLimits(memory_bytes=8 * 2**30, cpu_seconds=1800)
    answer, refused = ask_scorer(document, results, store, limit_bytes=limit_bytes, limits=generous)
    return Analysis.model_validate(answer["analysis"]), tuple(refused)


def _facts(result: Result, place: dict[str, int]) -> SuspectFacts:
    return SuspectFacts(
        submission=result.submission,
        team=result.team,
        image=result.image,
        predictions_digest=result.predictions_digest,
        final=place.get(result.submission, 0),
    )


def analyse(
    order: AnalysisOrder,
    metric: Metric,
    names: Sequence[str],
    labels: Floats,
    evaluations: Sequence[str],
    predictions: Floats,
) -> Analysis:
    """The analysis of a board whose row `i` is the evaluation `evaluations[i]`; shape (evaluations, items)."""
    if not evaluations:
        return Analysis(standings=None)
    facts = [order.results[evaluation] for evaluation in evaluations]
    columns = read_metadata(order.metadata, names, order.id_column) if order.metadata else {}
    scores = metric.score(labels, predictions)
    defined = np.flatnonzero(np.isfinite(scores))
    if not defined.size:
        return Analysis(standings=None)
    kept = [facts[place] for place in defined]
    board = predictions[defined]
    best = sorted(range(len(kept)), key=lambda p: (scores[defined[p]] * (-1 if metric.greater_is_better else 1), p))
    entries = _entries(kept, order.choice.teams)
    standing = _standing_rows(entries, order.choice.teams, best)
    return Analysis(
        standings=standings(metric, labels, board, entries, order.choice, _clusters(order.choice, columns)),
        boundaries=_boundaries(
            order.choice, metric, names, labels, board[standing], [kept[place] for place in standing]
        ),
        groups=_groups(metric, columns, labels, board, kept),
        look_alikes=tuple(
            LookAlike(one=p.one, other=p.other, likeness=p.likeness, correlation=p.correlation)
            for p in look_alikes([Suspect(f.submission, f.team, f.image, f.predictions_digest) for f in kept], board)
        ),
        reliability={
            kept[place].submission: tuple(
                ReliabilityPoint(
                    low=one.low,
                    high=one.high,
                    items=one.items,
                    mean_prediction=one.mean_prediction,
                    share_of_fakes=one.share_of_fakes,
                )
                for one in reliability(labels, board[place])
            )
            for place in best[:_RELIABILITY_OF]
        },
    )


def _entries(facts: Sequence[SuspectFacts], teams: Reduction | None) -> list[Entry]:
    if teams is None:
        return [Entry(fact.submission, (row,)) for row, fact in enumerate(facts)]
    finals: dict[str, list[int]] = {}
    for row in sorted(range(len(facts)), key=lambda row: (facts[row].final, facts[row].submission)):
        finals.setdefault(facts[row].team, []).append(row)
    return [Entry(team, tuple(rows)) for team, rows in sorted(finals.items())]


def _standing_rows(entries: Sequence[Entry], teams: Reduction | None, best: Sequence[int]) -> list[int]:
    """The row that each entry's rank rests on: a prize lies between two entries, never between two finals of one.

    Empty for teams whose mean counts, which no single prediction file gives.
    """
    if teams is Reduction.MEAN:
        return []
    if teams is not Reduction.BEST:
        return sorted(entry.rows[-1] for entry in entries)
    place = {row: number for number, row in enumerate(best)}
    return sorted(min(entry.rows, key=place.__getitem__) for entry in entries)


def _clusters(choice: UncertaintyChoice, columns: dict[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    if choice.cluster_column is None:
        return None
    if choice.cluster_column not in columns:
        raise ConfigurationError(
            f"The metadata have no column {choice.cluster_column!r} to draw clusters by.",
            hint=f"Columns: {', '.join(columns) or 'none'}.",
        )
    if len(set(columns[choice.cluster_column])) < 2:
        raise ConfigurationError(
            f"The metadata column {choice.cluster_column!r} has one value only, so nothing can be resampled.",
            hint="Choose a column that tells sources or identities apart.",
        )
    return columns[choice.cluster_column]


def _boundaries(
    choice: UncertaintyChoice,
    metric: Metric,
    names: Sequence[str],
    labels: Floats,
    board: Floats,
    facts: Sequence[SuspectFacts],
) -> tuple[PrizeBoundary, ...]:
    if not isinstance(metric, MeanMetric) or not metric.is_mean:
        return ()
    found = []
    by_name = np.argsort(np.argsort([fact.submission for fact in facts]))
    for place in choice.prize_places:
        if not 1 <= place < len(facts):
            continue
        one = prize_boundary(metric, labels, board, place, tie_break=by_name.tolist())
        found.append(
            PrizeBoundary(
                place=place,
                winner=facts[one.winner].submission,
                runner_up=facts[one.runner_up].submission,
                gap=one.gap,
                gap_total=one.gap_total,
                by_removal=tuple(names[item] for item in one.by_removal),
                by_relabelling=tuple(names[item] for item in one.by_relabelling),
                fewest_removals=one.fewest_removals,
                fewest_relabellings=one.fewest_relabellings,
            )
        )
    return tuple(found)


def _groups(
    metric: Metric,
    columns: dict[str, tuple[str, ...]],
    labels: Floats,
    board: Floats,
    facts: Sequence[SuspectFacts],
) -> tuple[Group, ...]:
    found = []
    for column, values in columns.items():
        if not 1 < len(set(values)) <= 50:  # an identifier is no grouping
            continue
        for group in scores_by_group(metric, labels, board, values):
            scores = {
                fact.submission: float(score) if np.isfinite(score) else None
                for fact, score in zip(facts, group.scores, strict=True)
            }
            found.append(Group(column=column, value=group.group, items=group.items, scores=scores))
    return tuple(found)
