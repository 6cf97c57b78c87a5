"""Copies are found, honest detectors that agree about easy items are not accused."""

from __future__ import annotations

import numpy as np

from referee.scoring.lookalikes import Likeness, Suspect, look_alikes, residual_correlation
from referee.scoring.metric import Floats


def board(entries: int = 30, items: int = 600, seed: int = 0) -> Floats:
    """Detectors that share the items' difficulty and two schools of thought, and differ in what is their own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(items) % 2 * 2 - 1
    difficulty = labels * rng.gamma(2, 1, items)
    school = rng.normal(size=(2, items))
    logits = difficulty + (rng.random((entries, 2)) @ school) + 0.8 * rng.normal(size=(entries, items))
    return 1 / (1 + np.exp(-logits))


def suspects(entries: int = 30) -> list[Suspect]:
    return [
        Suspect(f"s-{place:02d}", f"t-{place:02d}", f"image-{place}", f"predictions-{place}")
        for place in range(entries)
    ]


def test_honest_detectors_that_agree_are_not_listed() -> None:
    predictions = board()
    assert np.corrcoef(np.log(predictions / (1 - predictions)))[0, 1] > 0.8  # raw correlation would accuse everybody
    assert look_alikes(suspects(), predictions) == ()


def test_a_copy_with_a_little_noise_or_another_scale_is_listed() -> None:
    predictions = board()
    logits = np.log(predictions[3] / (1 - predictions[3]))
    predictions[17] = 1 / (1 + np.exp(-(0.7 * logits + 0.3 + 0.05 * np.random.default_rng(1).normal(size=600))))
    found = look_alikes(suspects(), predictions)
    assert [(pair.one, pair.other, pair.likeness) for pair in found] == [("s-03", "s-17", Likeness.CORRELATED)]
    assert found[0].correlation > 0.95


def test_a_school_of_detectors_is_not_a_conspiracy_and_a_copy_within_it_is_still_found() -> None:
    rng = np.random.default_rng(5)
    difficulty = (np.arange(600) % 2 * 2 - 1) * rng.gamma(2, 1, 600)
    school = 2.5 * rng.normal(size=(3, 600))[np.arange(30) % 3]
    logits = difficulty + school + 0.7 * rng.normal(size=(30, 600))
    predictions = 1 / (1 + np.exp(-logits))
    assert len(look_alikes(suspects(), predictions, components=0, threshold=0.8)) > 50
    assert look_alikes(suspects(), predictions, threshold=0.8) == ()
    predictions[9] = 1 / (1 + np.exp(-(logits[3] + 0.1 * rng.normal(size=600))))
    assert [(pair.one, pair.other) for pair in look_alikes(suspects(), predictions, threshold=0.8)] == [
        ("s-03", "s-09")
    ]


def test_copies_are_not_taken_for_something_common() -> None:
    rng = np.random.default_rng(6)
    logits = (np.arange(6000) % 2 * 2 - 1) * rng.gamma(2, 1, 6000) + 0.8 * rng.normal(size=(30, 6000))
    logits[[11, 12]] = logits[2] + 0.05 * rng.normal(size=(2, 6000))
    found = look_alikes(suspects(), 1 / (1 + np.exp(-logits)))
    assert {(pair.one, pair.other) for pair in found} == {("s-02", "s-11"), ("s-02", "s-12"), ("s-11", "s-12")}


def test_identical_images_and_predictions_are_listed_first_and_once() -> None:
    some = suspects()
    some[5] = Suspect("s-05", "t-05", "image-9", "predictions-9")
    some[6] = Suspect("s-06", "t-06", "image-6", "predictions-20")
    predictions = board()
    predictions[5], predictions[6] = predictions[9], predictions[20]
    found = look_alikes(some, predictions)
    assert [(pair.one, pair.other, pair.likeness, pair.correlation) for pair in found] == [
        ("s-05", "s-09", Likeness.IMAGE, 1.0),
        ("s-06", "s-20", Likeness.PREDICTIONS, 1.0),
    ]


def test_a_teams_own_finals_may_be_alike() -> None:
    some = suspects()
    some[5] = Suspect("s-05", "t-09", "image-9", "predictions-9")
    predictions = board()
    predictions[5] = predictions[9]
    assert look_alikes(some, predictions) == ()


def test_constant_submissions_correlate_with_nobody() -> None:
    predictions = board()
    predictions[4] = 0.5
    predictions[8] = 0.3
    correlation = residual_correlation(predictions)
    assert np.isfinite(correlation).all()
    assert np.abs(correlation[4, [place for place in range(30) if place != 4]]).max() == 0
    assert look_alikes(suspects(), predictions) == ()


def test_a_small_board_compares_digests_alone() -> None:
    pair = [Suspect("s-0", "t-0", "i", "p"), Suspect("s-1", "t-1", "j", "p")]
    assert [p.likeness for p in look_alikes(pair, board(2))] == [Likeness.PREDICTIONS]
    assert len(look_alikes(pair)) == 1
