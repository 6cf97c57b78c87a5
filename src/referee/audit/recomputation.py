"""Every score of a bundle once more, from its prediction files and the labels that the auditor has."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from referee.audit import contents
from referee.audit.archive import Archive, wrong
from referee.challenge import Challenge
from referee.errors import ConfigurationError
from referee.ledger import Ledger, queries
from referee.ledger.schema import EVALUATIONS, SCORES
from referee.predictions import Labels, PredictionError, read_labels, read_predictions
from referee.scoring.boards import metric_in_force
from referee.scoring.metric import find_metric
from referee.verdicts import Verdict

_MOST_BYTES = 2**30
_LIST_BYTES = 256 * 2**20
# Logarithms differ in their last bit between processors and libraries; a sum of thousands moves no further than this.
_LAST_DIGITS = 1e-12


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A phase whose scores were computed again.

    Attributes:
        results: prediction files that were read.
        scores: scores that came out as recorded.
        nearly: of them, those that differ in their last digits.
        other_labels: scores that rest on other labels, and were left aside.
    """

    phase: str
    results: int
    scores: int
    nearly: int
    other_labels: int


@dataclass(frozen=True, slots=True)
class _Score:
    evaluation: str
    metric: str
    value: str
    predictions_digest: str
    epsilon: float


def recompute(
    archive: Archive, ledger: Ledger, labels: Sequence[Path], *, with_predictions: bool
) -> tuple[Recomputed, ...]:
    """Compute the scores of each phase that one of the label files is of.

    Raises:
        ConfigurationError: if the bundle holds no predictions, or a label file cannot be read.
        BundleError: naming the first score that does not follow, or a label file that the ledger does not know.
    """
    if labels and not with_predictions:
        raise ConfigurationError(
            "The predictions were left out of this bundle, so no score can be computed again.",
            hint="Ask for a bundle with predictions, or leave --labels out.",
        )
    found = []
    for path in labels:
        phases = _phases_of(ledger, path)
        found += [_recompute(archive, ledger, phase, path) for phase in phases]
    return tuple(found)


def _phases_of(ledger: Ledger, path: Path) -> list[str]:
    challenge = contents.recorded_challenge(ledger)
    digest = read_labels(path, challenge.predictions).digest
    phases = [name for name, row in queries.phases(ledger).items() if row.labels_digest == digest]
    if not phases:
        raise wrong(
            f"{path} ({digest}) is not the label file that the bundle's ledger holds for any phase.",
            "Either it is another file, or the labels were changed.",
        )
    return phases


def _recompute(archive: Archive, ledger: Ledger, phase: str, path: Path) -> Recomputed:
    challenge = contents.recorded_challenge(ledger)
    listed = json.loads(archive.read(contents.phase_name(phase), _LIST_BYTES))
    labels = read_labels(path, challenge.predictions, expected=[str(name) for name, _, _ in listed])
    scores, other_labels = _scores(ledger, phase, labels, challenge)
    official = {
        row.evaluation: row
        for row in queries.evaluations(ledger, phase)
        if row.verdict is Verdict.OK and row.predictions_digest
    }
    scored = {score.evaluation for score in scores}
    values: dict[tuple[str, str, float], float] = {}
    wanted = {(score.predictions_digest, score.metric, score.epsilon) for score in scores}
    sealed = queries.seals(ledger).get(phase)
    forgotten = [row for name, row in official.items() if name not in scored] if scored & official.keys() else []
    choice = metric_in_force(challenge, ledger, phase)
    primary = choice.name, choice.epsilon
    if not (sealed and sealed.sealed):
        wanted |= {(str(row.predictions_digest), *primary) for row in forgotten}
    by_file: dict[str, list[tuple[str, float]]] = {}
    for digest, name, epsilon in sorted(wanted):
        by_file.setdefault(digest, []).append((name, epsilon))
    # Finding one reads the list of every installed package: once for each metric, not for each file.
    metrics = {chosen: find_metric(*chosen) for chosen in {(name, epsilon) for _, name, epsilon in wanted}}
    for digest, predictions in _predictions(archive, list(by_file), labels, challenge):
        for name, epsilon in by_file[digest]:
            score = metrics[name, epsilon].score(labels.values, predictions[None, :])
            values[digest, name, epsilon] = float(score[0])
    nearly = sum(_compare(score, values[score.predictions_digest, score.metric, score.epsilon]) for score in scores)
    for row in forgotten:
        if math.isfinite(values.get((str(row.predictions_digest), *primary), math.nan)):
            raise wrong(f"{row.evaluation} has a valid result and no score, though others on {phase} were scored.")
    return Recomputed(phase, len(by_file), len(scores), nearly, other_labels)


def _scores(ledger: Ledger, phase: str, labels: Labels, challenge: Challenge) -> tuple[list[_Score], int]:
    query = select(SCORES).join(EVALUATIONS).where(EVALUATIONS.c.phase == phase)
    # Ledgers of older versions do not say it with the score, and the challenge may have been changed since.
    in_force = metric_in_force(challenge, ledger, phase).epsilon
    found, others = [], 0
    with ledger.read() as connection:
        for row in connection.execute(query.order_by(SCORES.c.evaluation, SCORES.c.metric, SCORES.c.rejudging)):
            if row.labels_digest != labels.digest:
                others += 1
                continue
            epsilon = in_force if row.epsilon is None else float(row.epsilon)
            found.append(_Score(row.evaluation, row.metric, row.value, row.predictions_digest, epsilon))
    return found, others


def _predictions(
    archive: Archive, digests: Sequence[str], labels: Labels, challenge: Challenge
) -> Iterator[tuple[str, Any]]:
    limit = min(challenge.limits.output, _MOST_BYTES)
    for digest in digests:
        name = contents.predictions_name(digest)
        try:
            found = read_predictions(archive.read(name, limit), labels.names, challenge.predictions, limit_bytes=limit)
        except PredictionError as error:
            raise wrong(f"{name} in the bundle is no valid prediction file: {error.message}") from error
        yield digest, found.values


def _compare(score: _Score, value: float) -> bool:
    """Whether a score differs in its last digits only; anything more is wrong."""
    recorded = float(score.value)
    if repr(value) == score.value:
        return False
    if not math.isclose(value, recorded, rel_tol=_LAST_DIGITS, abs_tol=_LAST_DIGITS):
        raise wrong(
            f"The score {score.metric} of {score.evaluation} is {value!r} by its predictions and the labels, "
            f"and {score.value} in the bundle."
        )
    return True
