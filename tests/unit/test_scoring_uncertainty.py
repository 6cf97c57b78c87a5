"""Resampling is paired, seeded and exact; what is claimed about ranks and ties is what was tested."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, t, ttest_rel

from referee.challenge import Reduction
from referee.scoring.comparisons import board_of_means, board_of_replicates, paired_z, rank_sets, tie_groups
from referee.scoring.metric import Floats, find_metric
from referee.scoring.resampling import Replicates, bootstrap, bootstrap_means, draw_counts, reduce_to_teams
from referee.scoring.uncertainty import intervals, rank_ranges, share_of_resamples_won


def board(entries: int = 8, items: int = 300, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(items) < 0.5).astype(float)
    skill = np.linspace(0.2, 1.2, entries)[:, None]
    logits = (2 * labels - 1) * skill + rng.normal(size=items) + 0.5 * rng.normal(size=(entries, items))
    return labels, 1 / (1 + np.exp(-logits))


def contributions(entries: int = 8, items: int = 300, seed: int = 0) -> Floats:
    labels, predictions = board(entries, items, seed)
    return find_metric("log_loss").per_item(labels, predictions)  # type: ignore[attr-defined]  # it is a mean


def values(replicates: Replicates) -> Floats:
    return replicates.scores + replicates.deviations[:, replicates.column].astype(float)


def test_counts_are_draws_with_replacement() -> None:
    blocks = list(draw_counts(50, 1200, seed=1))
    assert [block.shape for block in blocks] == [(500, 50), (500, 50), (200, 50)]
    counts = np.concatenate(blocks)
    assert (counts.sum(axis=1) == 50).all()
    assert abs(counts.var() - 49 / 50) < 0.02  # binomial(50, 1/50)


def test_each_replicate_is_the_score_of_the_drawn_items_for_all_submissions_alike() -> None:
    labels, predictions = board()
    metric = find_metric("log_loss")
    found = values(bootstrap(metric, labels, predictions, replicates=20, seed=4))
    for replicate, counts in zip(found, next(draw_counts(labels.size, 20, 4)), strict=True):
        np.testing.assert_allclose(replicate, metric.score(labels, predictions, counts.astype(float)), rtol=1e-5)


def test_a_metric_that_is_no_mean_is_scored_anew_in_each_replicate() -> None:
    labels, predictions = board()
    metric = find_metric("roc_auc")
    found = values(bootstrap(metric, labels, predictions, replicates=20, seed=4))
    for replicate, counts in zip(found, next(draw_counts(labels.size, 20, 4)), strict=True):
        np.testing.assert_allclose(replicate, metric.score(labels, predictions, counts.astype(float)), rtol=1e-5)


def test_clusters_are_drawn_whole() -> None:
    labels, predictions = board()
    names = [f"source-{place % 7}" for place in range(labels.size)]
    for name in ("log_loss", "roc_auc"):
        metric = find_metric(name)
        replicates = bootstrap(metric, labels, predictions, clusters=names, replicates=20, seed=4)
        assert (replicates.units, replicates.clustered) == (7, True)
        for replicate, counts in zip(values(replicates), next(draw_counts(7, 20, 4)), strict=True):
            weight = np.array([counts[place % 7] for place in range(labels.size)], dtype=float)
            np.testing.assert_allclose(replicate, metric.score(labels, predictions, weight), rtol=1e-5)


def test_the_same_seed_gives_the_same_replicates_and_another_gives_others() -> None:
    rows = contributions()
    first, again = (bootstrap_means(rows, greater_is_better=False, replicates=700, seed=7) for _ in range(2))
    other = bootstrap_means(rows, greater_is_better=False, replicates=700, seed=8)
    assert first.deviations.tobytes() == again.deviations.tobytes()
    assert first.deviations.tobytes() != other.deviations.tobytes()


def test_identical_submissions_have_identical_values_everywhere() -> None:
    labels, predictions = board()
    doubled = np.concatenate([predictions, predictions[[3, 3]]])
    replicates = bootstrap(find_metric("log_loss"), labels, doubled, replicates=500, seed=1)
    assert replicates.deviations.shape == (500, 8)
    ranges = rank_ranges(replicates)
    assert {(ranges.low[place], ranges.high[place]) for place in (3, 8, 9)} == {(ranges.low[3], ranges.high[3])}
    assert share_of_resamples_won(replicates, 3, 8) == share_of_resamples_won(replicates, 8, 3) == 0.0
    sets = rank_sets(board_of_means(find_metric("log_loss").per_item(labels, doubled), greater_is_better=False))  # type: ignore[attr-defined]  # it is a mean
    assert len({(sets.low[place], sets.high[place]) for place in (3, 8, 9)}) == 1


def test_intervals_are_the_percentiles_of_the_replicates() -> None:
    replicates = bootstrap_means(contributions(), greater_is_better=False, replicates=999, seed=1)
    found = intervals(replicates, 0.9)
    wide = np.sqrt(300 / 299)
    expected = np.sort(replicates.deviations, axis=0)
    np.testing.assert_allclose(found.low, replicates.scores + wide * expected[49], rtol=1e-6)
    np.testing.assert_allclose(found.high, replicates.scores + wide * expected[949], rtol=1e-6)


def test_an_interval_agrees_with_the_normal_theory_of_the_mean() -> None:
    rows = contributions(items=2000)
    found = intervals(bootstrap_means(rows, greater_is_better=False, replicates=4000, seed=1), 0.9)
    half = 1.645 * rows.std(axis=1, ddof=1) / np.sqrt(2000)
    np.testing.assert_allclose(found.high - found.low, 2 * half, rtol=0.08)


@pytest.mark.parametrize("greater", [False, True])
def test_rank_ranges_are_the_percentiles_of_the_ranks(greater: bool) -> None:
    rows = contributions(entries=12, items=100)
    rows[5] = rows[2]
    replicates = bootstrap_means(rows, greater_is_better=greater, replicates=999, seed=3)
    signed = -values(replicates) if greater else values(replicates)
    ranks = np.sort(rankdata(signed, axis=1, method="min"), axis=0)
    found = rank_ranges(replicates, 0.9)
    np.testing.assert_array_equal(found.low, ranks[49])
    np.testing.assert_array_equal(found.high, ranks[949])


def test_chance_ties_of_a_counting_metric_are_ties_and_share_the_best_rank() -> None:
    rows = (np.random.default_rng(2).random((6, 23)) < np.linspace(0.4, 0.6, 6)[:, None]).astype(float)
    replicates = bootstrap_means(rows, greater_is_better=True, replicates=999, seed=0)
    hits = np.concatenate([counts @ rows.T for counts in draw_counts(23, 999, 0)])
    expected = np.sort(rankdata(-hits, axis=1, method="min"), axis=0)
    for level, low, high in ((0.2, 399, 599), (0.6, 199, 799), (0.9, 49, 949)):
        found = rank_ranges(replicates, level)
        np.testing.assert_array_equal(found.low, expected[low])
        np.testing.assert_array_equal(found.high, expected[high])
    assert share_of_resamples_won(replicates, 0, 1) == (hits[:, 0] > hits[:, 1]).mean()


def test_the_share_of_resamples_won_counts_wins_alone() -> None:
    rows = np.zeros((2, 100))
    rows[1] = 0.1
    replicates = bootstrap_means(rows, greater_is_better=False, replicates=50, seed=0)
    assert (share_of_resamples_won(replicates, 0, 1), share_of_resamples_won(replicates, 1, 0)) == (1.0, 0.0)
    close = bootstrap_means(contributions(entries=4), greater_is_better=False, replicates=2000, seed=0)
    shares = share_of_resamples_won(close, 2, 3), share_of_resamples_won(close, 3, 2)
    assert sum(shares) == pytest.approx(1.0)
    assert shares[1] > 0.5  # entry 3 has the smaller loss


def test_one_cluster_cannot_be_resampled() -> None:
    with pytest.raises(ValueError, match="one cluster"):
        bootstrap_means(contributions(), greater_is_better=False, clusters=["a"] * 300)
    with pytest.raises(ValueError, match="do not fit"):
        bootstrap_means(contributions(), greater_is_better=False, clusters=["a"] * 299)


def test_teams_are_reduced_inside_each_replicate() -> None:
    replicates = bootstrap_means(contributions(entries=6), greater_is_better=False, replicates=300, seed=2)
    teams = [[0, 5], [1], [4, 3, 2]]
    each = values(replicates)
    expected = {
        Reduction.BEST: [each[:, team].min(axis=1) for team in teams],
        Reduction.LAST: [each[:, team[-1]] for team in teams],
        Reduction.MEAN: [each[:, team].mean(axis=1) for team in teams],
    }
    for reduction, columns in expected.items():
        found = reduce_to_teams(replicates, teams, reduction)
        np.testing.assert_allclose(values(found), np.stack(columns, axis=1), rtol=1e-5)
    best = reduce_to_teams(replicates, teams, Reduction.BEST)
    np.testing.assert_array_equal(best.scores, [replicates.scores[team].min() for team in teams])


def test_two_teams_with_the_same_finals_stay_equal() -> None:
    rows = contributions(entries=3)
    replicates = bootstrap_means(np.concatenate([rows, rows[:1]]), greater_is_better=False, replicates=100, seed=2)
    teams = reduce_to_teams(replicates, [[0], [1, 2], [3]], Reduction.BEST)
    assert teams.column.tolist() == [0, 1, 0]


def test_paired_z_is_the_paired_t_statistic() -> None:
    rows = contributions()
    z = paired_z(board_of_means(rows, greater_is_better=False))
    for one in range(8):
        for other in range(8):
            if one != other:
                assert z[one, other] == pytest.approx(-ttest_rel(rows[one], rows[other]).statistic, rel=1e-9)
    assert (np.diagonal(z) == 0).all()
    assert paired_z(board_of_means(rows, greater_is_better=True))[0, 1] == -z[0, 1]


def test_the_covariance_of_replicates_agrees_with_the_gram_matrix() -> None:
    rows = contributions(items=1000)
    exact = board_of_means(rows, greater_is_better=False)
    resampled = board_of_replicates(bootstrap_means(rows, greater_is_better=False, replicates=20_000, seed=1))
    np.testing.assert_allclose(resampled.covariance, exact.covariance, rtol=0.08)


def test_clusters_widen_what_is_claimed() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(6, 40)), 25, axis=1) + 0.1 * rng.normal(size=(6, 1000))
    names = [f"{place // 25:02d}" for place in range(1000)]
    single = board_of_means(rows, greater_is_better=False)
    clustered = board_of_means(rows, greater_is_better=False, clusters=names)
    assert (np.diagonal(clustered.covariance) > 10 * np.diagonal(single.covariance)).all()
    by_source = rows.reshape(6, 40, 25).mean(axis=2)
    assert clustered.covariance[0, 0] == pytest.approx(by_source[0].var(ddof=1) / 40, rel=1e-9)


def _holm(p: Floats, error: float) -> list[bool]:
    rejected = [False] * p.size
    for step, place in enumerate(np.argsort(p)):
        if p[place] > error / (p.size - step):
            break
        rejected[place] = True
    return rejected


@given(st.integers(2, 12), st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 1.0]))
@settings(max_examples=60)
def test_rank_sets_count_the_rejections_of_holm(entries: int, seed: int, gap: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(entries, 60)) + gap * np.arange(entries)[:, None]
    found = rank_sets(board_of_means(rows, greater_is_better=False), 0.9)
    for one in range(entries):
        others = [other for other in range(entries) if other != one]
        tests = [ttest_rel(rows[one], rows[other]) for other in others]
        rejected = _holm(np.array([test.pvalue for test in tests]), 0.1)
        better = sum(test.statistic > 0 and shown for test, shown in zip(tests, rejected, strict=True))
        worse = sum(test.statistic < 0 and shown for test, shown in zip(tests, rejected, strict=True))
        assert (found.low[one], found.high[one]) == (1 + better, entries - worse)


@given(st.integers(2, 10), st.integers(0, 10_000), st.sampled_from([0.1, 0.4, 2.0]))
@settings(max_examples=60)
def test_each_anchor_beats_every_lower_group_and_nobody_of_its_own(entries: int, seed: int, gap: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(entries, 60)) + gap * np.arange(entries)[:, None]
    groups = tie_groups(board_of_means(rows, greater_is_better=False), 0.05)
    pairs = [(one, other) for one in range(entries) for other in range(one)]
    rejected = set()
    p = np.array([ttest_rel(rows[one], rows[other]).pvalue for one, other in pairs])
    for (one, other), shown in zip(pairs, _holm(p, 0.05), strict=True):
        if shown:
            rejected |= {(one, other), (other, one)}
    scores = rows.mean(axis=1)
    for group in range(1, groups.max() + 1):
        members = np.flatnonzero(groups == group)
        anchor = members[np.argmin(scores[members])]
        assert all((anchor, other) not in rejected for other in members)
        for other in np.flatnonzero(groups > group):
            assert (anchor, other) in rejected
            assert scores[anchor] < scores[other]


def test_a_board_of_one_entry_makes_no_comparison() -> None:
    one = board_of_means(contributions(entries=1), greater_is_better=False)
    assert (rank_sets(one).low.tolist(), rank_sets(one).high.tolist(), tie_groups(one).tolist()) == ([1], [1], [1])


def test_a_difference_without_variance_is_certain() -> None:
    rows = np.repeat(np.random.default_rng(0).random((1, 50)), 3, axis=0)
    rows[1] += 0.25
    shifted = board_of_means(rows, greater_is_better=False)
    assert paired_z(shifted)[0].tolist() == [0.0, np.inf, 0.0]
    assert rank_sets(shifted).low.tolist() == [1, 3, 1]
    assert tie_groups(shifted).tolist() == [1, 2, 1]


def test_few_units_ask_for_more_evidence() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2, 6))
    rows[1] += 1.5 * rows.std()
    found = paired_z(board_of_means(rows, greater_is_better=False))[0, 1]
    p = 2 * t.sf(abs(found), 5)
    for level in (1 - p * 0.99, 1 - p * 1.01):
        assert (rank_sets(board_of_means(rows, greater_is_better=False), level).high[0] == 1) == (1 - level > p)
