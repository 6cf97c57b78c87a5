"""The reproduction check: does a re-run on public data give what was recorded, and if not, why?

The first valid attempt counts, never the best: choosing among attempts would let luck reproduce a score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from referee.scoring.metric import Floats, Metric, find_metric
from referee.verdicts import Blame, Verdict, blame

# Clipping that platforms and participants are known to use; tried when a recorded score does not fit.
_EPSILONS = (1e-15, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


class Outcome(StrEnum):
    """How a re-run compares with what was recorded."""

    EXACT = "reproduced_exactly"
    WITHIN_TOLERANCE = "within_tolerance"
    DIFFERENT = "different"
    FAILED = "failed"
    NOTHING_RECORDED = "nothing_recorded"


class Cause(StrEnum):
    """The likely reason of a difference or a failure, as far as it can be told."""

    NONE = "none"
    CLIPPING = "clipping"
    FLOAT_NOISE = "float_noise"
    FEW_ITEMS = "few_items"
    MISSING_ROWS = "missing_rows"
    NONDETERMINISM = "nondeterminism"
    OTHER_HARDWARE = "other_hardware"
    SUBMISSION = "submission"
    HOST = "host"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the competition recorded of a submission on the public phase.

    Attributes:
        score: the public score; None if it is not known.
        decimals: with how many decimals the score was published.
        predictions: the predictions themselves, in the order of the phase's files; NaN for rows that were missing.
        hardware: the kind of machine, where it is known.
    """

    score: float | None = None
    decimals: int = 5
    predictions: Floats | None = None
    hardware: str | None = None


@dataclass(frozen=True, slots=True)
class Rerun:
    """What the re-run gave: the first valid attempt, and further ones that show the spread from run to run.

    Attributes:
        verdict: how the evaluation ended.
        predictions: of valid attempts, in order; each of shape (items,).
        hardware: the kind of machine.
    """

    verdict: Verdict
    predictions: tuple[Floats, ...] = ()
    hardware: str | None = None


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The answer for one submission.

    Attributes:
        recorded_score: as given, or computed from the recorded predictions.
        rerun_score: of the first valid attempt.
        difference: re-run minus recorded; None where one is not known.
        largest_change: largest |difference| of a prediction; None without recorded predictions.
        changed_items: how many predictions differ by more than float noise.
        run_to_run: largest |difference| of a prediction between valid attempts; None with fewer than two.
        explanation: one sentence for the operator.
    """

    submission: str
    outcome: Outcome
    cause: Cause
    recorded_score: float | None
    rerun_score: float | None
    difference: float | None
    largest_change: float | None
    changed_items: int | None
    run_to_run: float | None
    explanation: str


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What still counts as the same: of a score, and of one prediction (float noise)."""

    score: float = 1e-3
    prediction: float = 1e-6


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """How many submissions could be re-run and how many reproduced, with the reasons of those that were not."""

    submissions: int
    rerun: int
    reproduced: int
    outcomes: dict[Outcome, int]
    causes: dict[Cause, int]


def check_reproduction(
    submission: str,
    metric: Metric,
    labels: Floats,
    recorded: Recorded,
    rerun: Rerun,
    tolerance: Tolerance | None = None,
) -> Reproduction:
    """Compare one re-run with what was recorded.

    Args:
        submission: blind id.
        metric: the challenge's primary metric, with its epsilon.
        labels: of the public phase; shape (items,).
        recorded: what the competition knows.
        rerun: what the re-run gave.
        tolerance: what still counts as the same.
    """
    allowed = tolerance or Tolerance()
    if rerun.verdict is not Verdict.OK or not rerun.predictions:
        cause = {Blame.SUBMISSION: Cause.SUBMISSION, Blame.HOST: Cause.HOST}.get(blame(rerun.verdict), Cause.UNKNOWN)
        text = f"The re-run ended as {rerun.verdict}."
        return Reproduction(submission, Outcome.FAILED, cause, recorded.score, None, None, None, None, None, text)
    first = rerun.predictions[0]
    score = float(metric.score(labels, first[None])[0])
    spread = max((float(np.abs(other - first).max()) for other in rerun.predictions[1:]), default=None)
    missing = 0 if recorded.predictions is None else int(np.isnan(recorded.predictions).sum())
    known = recorded.score
    if known is None and recorded.predictions is not None and not missing:
        known = float(metric.score(labels, recorded.predictions[None])[0])
    change = None if recorded.predictions is None else np.abs(recorded.predictions - first)
    largest = None if change is None or np.isnan(change).all() else float(np.nanmax(change))
    changed = None if change is None else int((change > allowed.prediction).sum())
    difference = None if known is None else score - known
    outcome = _outcome(recorded, difference, largest, missing, allowed)
    cause, text = Cause.NONE, "The re-run gave the same."
    if outcome is Outcome.NOTHING_RECORDED:
        text = "Nothing was recorded to compare with."
    elif outcome is not Outcome.EXACT:
        cause, text = _why(metric, labels, recorded, rerun, spread, largest, changed, missing, allowed)
    return Reproduction(submission, outcome, cause, known, score, difference, largest, changed, spread, text)


def success_rate(found: Sequence[Reproduction]) -> SuccessRate:
    """The campaign's re-run success, by cause. What failed by the host's doing counts as not re-run, like the rest."""
    outcomes = Counter(one.outcome for one in found)
    causes = Counter(one.cause for one in found)
    return SuccessRate(
        submissions=len(found),
        rerun=len(found) - outcomes[Outcome.FAILED],
        reproduced=outcomes[Outcome.EXACT] + outcomes[Outcome.WITHIN_TOLERANCE],
        outcomes={outcome: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        causes={cause: causes[cause] for cause in Cause if causes[cause] and cause is not Cause.NONE},
    )


_CAUSES = {
    Cause.SUBMISSION: "ended by the submission",
    Cause.HOST: "the host's doing",
    Cause.UNKNOWN: "not told",
}


def in_sentences(rate: SuccessRate) -> tuple[str, ...]:
    """How many could be re-run and how many reproduced, with the causes of the others."""
    if not rate.submissions:
        return ("Nothing was compared.",)
    comparable = rate.rerun - rate.outcomes.get(Outcome.NOTHING_RECORDED, 0)
    lines = [f"{rate.rerun} of {rate.submissions} submissions ({rate.rerun / rate.submissions:.0%}) could be re-run."]
    if comparable:
        share = rate.reproduced / comparable
        lines.append(f"{rate.reproduced} of the {comparable} with a recorded score ({share:.0%}) gave it again.")
    if rate.causes:
        causes = (f"{count} {_CAUSES.get(cause, cause.replace('_', ' '))}" for cause, count in rate.causes.items())
        lines.append(f"Causes where not, or not exactly: {', '.join(causes)}.")
    return tuple(lines)


def _outcome(
    recorded: Recorded, difference: float | None, largest: float | None, missing: int, allowed: Tolerance
) -> Outcome:
    if missing:
        return Outcome.DIFFERENT
    if largest is not None:
        if largest == 0:
            return Outcome.EXACT
        near = difference is not None and abs(difference) <= allowed.score
        return Outcome.WITHIN_TOLERANCE if near else Outcome.DIFFERENT
    if difference is None:
        return Outcome.NOTHING_RECORDED
    if _is_rounded(difference, recorded.decimals):
        return Outcome.EXACT
    return Outcome.WITHIN_TOLERANCE if abs(difference) <= allowed.score else Outcome.DIFFERENT


def _why(
    metric: Metric,
    labels: Floats,
    recorded: Recorded,
    rerun: Rerun,
    spread: float | None,
    largest: float | None,
    changed: int | None,
    missing: int,
    allowed: Tolerance,
) -> tuple[Cause, str]:
    """The first cause, from the surest to the vaguest, that explains a difference."""
    epsilon = _other_epsilon(metric, labels, recorded, rerun.predictions[0])
    elsewhere = recorded.hardware and rerun.hardware and recorded.hardware != rerun.hardware
    few = changed is not None and changed <= max(1, labels.size // 100)
    candidates = (
        (missing > 0, Cause.MISSING_ROWS, f"{missing} of the recorded rows are missing."),
        (epsilon is not None, Cause.CLIPPING, f"The recorded score is met if predictions are clipped at {epsilon}."),
        (
            spread is not None and spread > allowed.prediction,
            Cause.NONDETERMINISM,
            f"Two runs of the same image differ by up to {spread}.",
        ),
        (
            largest is not None and largest <= allowed.prediction,
            Cause.FLOAT_NOISE,
            f"No prediction differs by more than {largest}.",
        ),
        (
            bool(elsewhere),
            Cause.OTHER_HARDWARE,
            f"It was recorded on {recorded.hardware} and re-run on {rerun.hardware}.",
        ),
        (few, Cause.FEW_ITEMS, f"{changed} of {labels.size} predictions changed, by up to {largest}."),
    )
    for applies, cause, text in candidates:
        if applies:
            return cause, text
    if spread is not None:
        return Cause.UNKNOWN, (
            f"{len(rerun.predictions)} runs of the image agree with each other, so what was recorded is not what this "
            "image gives on these files."
        )
    return Cause.UNKNOWN, "The cause cannot be told; a second run would show whether the image is deterministic."


def _other_epsilon(metric: Metric, labels: Floats, recorded: Recorded, predictions: Floats) -> float | None:
    """A clipping under which the re-run's predictions give the recorded score, unless they do as they are."""
    if recorded.score is None or metric.name != "log_loss" or _is_met(recorded, metric, labels, predictions):
        return None
    for epsilon in _EPSILONS:
        if _is_met(recorded, find_metric("log_loss", epsilon), labels, predictions):
            return epsilon
    return None


def _is_met(recorded: Recorded, metric: Metric, labels: Floats, predictions: Floats) -> bool:
    """Whether these predictions give the recorded score, as far as its decimals tell.

    A score that was published with five decimals is met exactly by every score that rounds to it.
    """
    score = float(metric.score(labels, predictions[None])[0])
    return recorded.score is not None and _is_rounded(score - recorded.score, recorded.decimals)


def _is_rounded(difference: float, decimals: int) -> bool:
    return abs(difference) <= 0.5 * 10.0**-decimals * (1 + 1e-9)
