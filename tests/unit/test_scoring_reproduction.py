"""Each way of reproducing and of not reproducing, with the cause that made it."""

from __future__ import annotations

import numpy as np
import pytest

from referee.scoring.metric import Floats, find_metric
from referee.scoring.reproduction import (
    Cause,
    Outcome,
    Recorded,
    Reproduction,
    Rerun,
    Tolerance,
    check_reproduction,
    success_rate,
)
from referee.verdicts import Verdict

RNG = np.random.default_rng(0)
LABELS = (np.arange(400) % 2).astype(float)
PREDICTIONS = np.clip(LABELS * 0.6 + 0.4 * RNG.random(400), 0, 1)
METRIC = find_metric("log_loss", 1e-15)
SCORE = float(METRIC.score(LABELS, PREDICTIONS[None])[0])


def check(
    recorded: Recorded, *predictions: Floats, verdict: Verdict = Verdict.OK, hardware: str | None = None
) -> Reproduction:
    return check_reproduction("s-a", METRIC, LABELS, recorded, Rerun(verdict, predictions, hardware))


def test_the_same_predictions_reproduce_exactly() -> None:
    found = check(Recorded(predictions=PREDICTIONS), PREDICTIONS)
    assert (found.outcome, found.cause) == (Outcome.EXACT, Cause.NONE)
    assert (found.difference, found.largest_change, found.changed_items) == (0.0, 0.0, 0)


def test_a_published_score_is_met_by_what_rounds_to_it() -> None:
    assert check(Recorded(score=round(SCORE, 5)), PREDICTIONS).outcome is Outcome.EXACT
    near = check(Recorded(score=round(SCORE, 5) + 2e-5), PREDICTIONS)
    assert (near.outcome, near.cause) == (Outcome.WITHIN_TOLERANCE, Cause.UNKNOWN)
    far = check(Recorded(score=SCORE + 0.01), PREDICTIONS)
    assert far.outcome is Outcome.DIFFERENT
    assert far.difference == pytest.approx(-0.01)


def test_float_noise_is_within_tolerance_and_named() -> None:
    found = check(Recorded(predictions=PREDICTIONS), PREDICTIONS + 1e-8 * RNG.normal(size=400))
    assert (found.outcome, found.cause, found.changed_items) == (Outcome.WITHIN_TOLERANCE, Cause.FLOAT_NOISE, 0)


def test_a_recorded_score_that_is_met_needs_no_other_clipping() -> None:
    noisy = PREDICTIONS + 1e-8 * RNG.normal(size=400)
    found = check(Recorded(score=round(SCORE, 5), predictions=PREDICTIONS), noisy)
    assert (found.outcome, found.cause) == (Outcome.WITHIN_TOLERANCE, Cause.FLOAT_NOISE)


def test_another_clipping_is_recognised() -> None:
    sure = PREDICTIONS.copy()
    sure[:4] = 1 - LABELS[:4]  # certain and wrong
    recorded = float(find_metric("log_loss", 1e-6).score(LABELS, sure[None])[0])
    found = check(Recorded(score=round(recorded, 5)), sure)
    assert (found.outcome, found.cause) == (Outcome.DIFFERENT, Cause.CLIPPING)
    assert "1e-06" in found.explanation


def test_recorded_rows_that_are_missing_are_counted() -> None:
    gaps = PREDICTIONS.copy()
    gaps[[3, 7]] = np.nan
    found = check(Recorded(predictions=gaps), PREDICTIONS)
    assert (found.outcome, found.cause) == (Outcome.DIFFERENT, Cause.MISSING_ROWS)
    assert found.explanation == "2 of the recorded rows are missing."


def test_a_second_run_shows_nondeterminism_and_the_first_run_counts() -> None:
    other = np.clip(PREDICTIONS + 0.2 * RNG.normal(size=400), 0, 1)
    found = check(Recorded(predictions=PREDICTIONS), other, PREDICTIONS)
    assert (found.outcome, found.cause) == (Outcome.DIFFERENT, Cause.NONDETERMINISM)
    assert found.rerun_score == METRIC.score(LABELS, other[None])[0]
    assert found.run_to_run == np.abs(other - PREDICTIONS).max()


def test_other_hardware_is_suspected_where_nothing_surer_is_known() -> None:
    other = np.clip(PREDICTIONS + 0.01 * RNG.normal(size=400), 0, 1)
    found = check(Recorded(predictions=PREDICTIONS, hardware="p100"), other, hardware="t4")
    assert found.cause is Cause.OTHER_HARDWARE
    assert check(Recorded(predictions=PREDICTIONS, hardware="t4"), other, hardware="t4").cause is Cause.UNKNOWN


def test_a_few_changed_items_are_told_from_many() -> None:
    few = PREDICTIONS.copy()
    few[:3] = 0.5
    found = check(Recorded(predictions=PREDICTIONS), few)
    assert (found.cause, found.changed_items) == (Cause.FEW_ITEMS, 3)


def test_failures_keep_their_blame() -> None:
    for verdict, cause in (
        (Verdict.CRASHED, Cause.SUBMISSION),
        (Verdict.NODE_LOST, Cause.HOST),
        (Verdict.GPU_OUT_OF_MEMORY, Cause.UNKNOWN),
    ):
        found = check(Recorded(score=0.5), verdict=verdict)
        assert (found.outcome, found.cause) == (Outcome.FAILED, cause)


def test_nothing_recorded_is_said_and_not_guessed() -> None:
    found = check(Recorded(), PREDICTIONS)
    assert (found.outcome, found.difference) == (Outcome.NOTHING_RECORDED, None)


def test_the_operator_sets_the_tolerance() -> None:
    rerun = Rerun(Verdict.OK, (PREDICTIONS,))
    found = check_reproduction("s-a", METRIC, LABELS, Recorded(score=SCORE + 0.01), rerun, Tolerance(score=0.02))
    assert found.outcome is Outcome.WITHIN_TOLERANCE


def test_the_success_rate_accounts_for_every_submission_by_cause() -> None:
    found = [check(Recorded(score=round(SCORE, 5)), PREDICTIONS)] * 90
    found += [check(Recorded(score=0.9), PREDICTIONS)] * 4 + [check(Recorded(), verdict=Verdict.CRASHED)] * 6
    rate = success_rate(found)
    assert (rate.submissions, rate.rerun, rate.reproduced) == (100, 94, 90)
    assert rate.outcomes == {Outcome.EXACT: 90, Outcome.DIFFERENT: 4, Outcome.FAILED: 6}
    assert rate.causes == {Cause.SUBMISSION: 6, Cause.UNKNOWN: 4}
