"""The board with its uncertainty: every part is the part that was tested, put together by declared rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from referee.challenge import Reduction, UncertaintyChoice
from referee.errors import ConfigurationError
from referee.scoring.analysis import AnalysisOrder, SuspectFacts, analyse
from referee.scoring.comparisons import board_of_means, rank_sets, tie_groups
from referee.scoring.metadata import read_metadata
from referee.scoring.metric import Floats, find_metric
from referee.scoring.standings import Entry, standings

LOG_LOSS = find_metric("log_loss")
RNG = np.random.default_rng(3)
LABELS = (np.arange(200) % 2).astype(float)
NAMES = tuple(f"video-{place}.mp4" for place in range(200))


def board(entries: int = 6) -> Floats:
    logits = (2 * LABELS - 1) * np.linspace(2.0, 0.2, entries)[:, None] + RNG.normal(size=(entries, 200))
    return 1 / (1 + np.exp(-logits))


PREDICTIONS = board()
CHOICE = UncertaintyChoice(replicates=400, seed=1)


def singles(count: int = 6) -> list[Entry]:
    return [Entry(f"s-{place}", (place,)) for place in range(count)]


def test_each_entry_has_its_interval_rank_set_and_group() -> None:
    found = standings(LOG_LOSS, LABELS, PREDICTIONS, singles(), CHOICE)
    scores = LOG_LOSS.score(LABELS, PREDICTIONS)
    order = np.argsort(scores)
    assert [one.entry for one in found.entries] == [f"s-{place}" for place in order]
    assert [one.rank for one in found.entries] == [1, 2, 3, 4, 5, 6]
    exact = board_of_means(LOG_LOSS.per_item(LABELS, PREDICTIONS), greater_is_better=False)  # type: ignore[attr-defined]  # it is a mean
    sets, groups = rank_sets(exact, 0.9), tie_groups(exact, 0.05)
    for one, place in zip(found.entries, order, strict=True):
        assert one.score == pytest.approx(scores[place], rel=1e-12)
        assert one.score_low < one.score < one.score_high
        assert (one.rank_low, one.rank_high) == (sets.low[place], sets.high[place])
        assert one.range_low <= one.rank <= one.range_high
        assert one.tie_group == groups[place]
    assert found.entries[-1].share_won_against_next is None
    assert all(one.share_won_against_next > 0.3 for one in found.entries[:-1])
    assert (found.units, found.clustered, len(found.warnings)) == (200, False, 1)


def test_standings_are_reproducible() -> None:
    one, again = (standings(LOG_LOSS, LABELS, PREDICTIONS, singles(), CHOICE).model_dump_json() for _ in range(2))
    assert one == again


@pytest.mark.parametrize("reduction", list(Reduction))
def test_a_teams_entry_is_the_declared_reduction_of_its_finals(reduction: Reduction) -> None:
    teams = [Entry("t-a", (0, 3)), Entry("t-b", (1,)), Entry("t-c", (5, 4, 2))]
    choice = CHOICE.model_copy(update={"teams": reduction})
    found = {one.entry: one for one in standings(LOG_LOSS, LABELS, PREDICTIONS, teams, choice).entries}
    scores = LOG_LOSS.score(LABELS, PREDICTIONS)
    reduce = {Reduction.BEST: np.min, Reduction.MEAN: np.mean, Reduction.LAST: lambda values: values[-1]}[reduction]
    for team in teams:
        assert found[team.name].score == pytest.approx(reduce(scores[list(team.rows)]), rel=1e-9)


def test_a_metric_that_is_no_mean_has_standings_too() -> None:
    found = standings(
        find_metric("roc_auc"), LABELS, PREDICTIONS, singles(), CHOICE.model_copy(update={"replicates": 100})
    )
    assert found.entries[0].score > found.entries[-1].score
    assert all(one.score_low < one.score < one.score_high for one in found.entries)


@pytest.mark.parametrize("teams", [None, Reduction.BEST])
def test_resamples_without_any_fake_say_nothing_and_are_left_out(teams: Reduction | None) -> None:
    labels = (np.arange(20) < 2).astype(float)  # one resample in eight has none of the two
    predictions = np.random.default_rng(0).random((4, 20))
    entries = singles(4) if teams is None else [Entry("t-0", (0, 1)), Entry("t-1", (2,)), Entry("t-2", (3,))]
    found = standings(find_metric("roc_auc"), labels, predictions, entries, CHOICE.model_copy(update={"teams": teams}))
    numbers = [(one.score_low, one.score, one.score_high) for one in found.entries]
    assert np.isfinite(numbers).all()
    assert all(low <= score <= high for low, score, high in numbers)
    # Two fakes among twenty files hardly tell apart who guesses.
    assert [one.tie_group for one in found.entries[:2]] == [1, 1]
    assert any("of the 400 resamples roc_auc was undefined" in warning for warning in found.warnings)


def test_few_clusters_and_none_are_warned_of() -> None:
    clusters = [f"{place % 10}" for place in range(200)]
    few = standings(LOG_LOSS, LABELS, PREDICTIONS, singles(), CHOICE, clusters)
    assert (few.units, few.clustered) == (10, True)
    assert few.warnings == ("Only 10 clusters were drawn, so the intervals are rough.",)


def test_nobody_and_nothing_defined_are_refused() -> None:
    with pytest.raises(ValueError, match="nobody"):
        standings(LOG_LOSS, LABELS, PREDICTIONS, [], CHOICE)
    with pytest.raises(ValueError, match="undefined"):
        standings(find_metric("roc_auc"), np.ones(200), PREDICTIONS, singles(), CHOICE)


def facts(place: int) -> SuspectFacts:
    return SuspectFacts(submission=f"s-{place}", team=f"t-{place}", image=f"i-{place}", predictions_digest=f"p-{place}")


def order(metadata: Path | None = None, **more: object) -> AnalysisOrder:
    results = {f"s-{place}.private_test": facts(place) for place in range(6)}
    return AnalysisOrder(choice=CHOICE.model_copy(update=more), results=results, metadata=metadata)


def written(folder: Path) -> Path:
    path = folder / "metadata.csv"
    rows = [f"{name},{'organic' if place % 4 else 'swap'},source-{place // 5}" for place, name in enumerate(NAMES)]
    path.write_text("filename,kind,source\n" + "\n".join(reversed(rows)) + "\n")
    return path


def test_an_analysis_holds_all_parts_and_survives_json(tmp_path: Path) -> None:
    evaluations = [f"s-{place}.private_test" for place in range(6)]
    found = analyse(
        order(written(tmp_path), cluster_column="source", prize_places=(1, 2, 9)),
        LOG_LOSS,
        NAMES,
        LABELS,
        evaluations,
        PREDICTIONS,
    )
    assert found.standings is not None
    assert (found.standings.units, found.standings.clustered) == (40, True)
    assert [(one.place, one.winner, one.runner_up) for one in found.boundaries] == [
        (1, "s-0", "s-1"),
        (2, "s-1", "s-2"),
    ]
    assert {(group.column, group.value, group.items) for group in found.groups if group.column == "kind"} == {
        ("kind", "organic", 150),
        ("kind", "swap", 50),
    }
    assert set(found.reliability) == {f"s-{place}" for place in range(6)}
    assert type(found).model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("teams", "pair"),
    [
        (None, ("s-0", "s-1")),
        (Reduction.BEST, ("s-0", "s-2")),
        (Reduction.LAST, ("s-1", "s-2")),
        (Reduction.MEAN, None),
    ],
)
def test_a_prize_lies_between_two_entries_and_never_between_two_finals_of_one(
    teams: Reduction | None, pair: tuple[str, str] | None
) -> None:
    evaluations = [f"s-{place}.private_test" for place in range(6)]
    known = order(teams=teams)
    owners = {"s-0.private_test": ("t-0", 0), "s-1.private_test": ("t-0", 1)}
    results = {
        name: fact.model_copy(update=dict(zip(("team", "final"), owners.get(name, (fact.team, 0)), strict=True)))
        for name, fact in known.results.items()
    }
    known = known.model_copy(update={"results": results})
    found = analyse(known, LOG_LOSS, NAMES, LABELS, evaluations, PREDICTIONS)
    scores = LOG_LOSS.score(LABELS, PREDICTIONS)
    assert list(np.argsort(scores)[:3]) == [0, 1, 2]
    assert [(one.winner, one.runner_up) for one in found.boundaries] == ([] if pair is None else [pair])


def test_an_empty_board_has_an_analysis() -> None:
    assert analyse(order(), LOG_LOSS, NAMES, LABELS, [], np.empty((0, 200))).standings is None


def test_a_cluster_column_that_does_not_help_is_refused(tmp_path: Path) -> None:
    evaluations = [f"s-{place}.private_test" for place in range(6)]
    with pytest.raises(ConfigurationError, match="no column 'identity'"):
        analyse(order(written(tmp_path), cluster_column="identity"), LOG_LOSS, NAMES, LABELS, evaluations, PREDICTIONS)
    path = tmp_path / "one.csv"
    path.write_text("filename,source\n" + "\n".join(f"{name},same" for name in NAMES))
    with pytest.raises(ConfigurationError, match="one value only"):
        analyse(order(path, cluster_column="source"), LOG_LOSS, NAMES, LABELS, evaluations, PREDICTIONS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs a header"),
        ("name,kind\na,x\n", "needs a header"),
        ("filename,kind,kind\na,x,y\n", "needs a header"),
        ("filename,kind\na,x\na,y\n", "row 3 names a file again"),
        ("filename,kind\na\n", "row 2 has 1 columns, not 2"),
        ("filename,kind\na,x\n", "no row for 1 of the phase's files, the first of them 'b'"),
        ('filename,kind\n"a,x\n', "cannot be read"),
    ],
)
def test_wrong_metadata_are_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_metadata(path, ["a", "b"], "filename")
    assert said in caught.value.message


def test_metadata_come_in_the_order_of_the_phase(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes('\ufefffilename,kind\r\nb,"x, y"\r\na,\r\nextra,z\r\n'.encode())
    assert read_metadata(path, ["a", "b"], "filename") == {"kind": ("", "x, y")}
