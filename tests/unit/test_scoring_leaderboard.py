"""The board follows from the ledger's rows: ranks, ties, who is not ranked and why, and the same bytes every time."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from scoring_rows import evaluation, score

from referee.scoring.leaderboard import Leaderboard, competition_ranks, leaderboard, unblinded
from referee.scoring.metric import constant_half, find_metric
from referee.verdicts import Verdict

LOG_LOSS = [find_metric("log_loss"), find_metric("roc_auc")]


def board(values: dict[str, float | Verdict | None], phase: str = "private_test", **more: object) -> Leaderboard:
    evaluations = [
        evaluation(name, value if isinstance(value, Verdict) or value is None else Verdict.OK, phase)
        for name, value in values.items()
    ]
    scores = [score(n, v, phase=phase) for n, v in values.items() if isinstance(v, float) and not math.isnan(v)]
    return leaderboard(phase, LOG_LOSS, evaluations, scores, **more)  # type: ignore[arg-type]  # passed through


def test_smaller_log_loss_ranks_first_and_ties_share_the_best_rank() -> None:
    found = board({"s-a": 0.5, "s-b": 0.2, "s-c": 0.5, "s-d": 0.9})
    assert [(row.rank, row.submission) for row in found.rows] == [(1, "s-b"), (2, "s-a"), (2, "s-c"), (4, "s-d")]


def test_a_name_cannot_forge_a_row_or_begin_html_in_markdown() -> None:
    names: dict[str, tuple[str, str]] = {
        "s-a": ("x\\| 1 |", "y\\\\| 0.00001 | z"),
        "s-b": ("<img src=x onerror=alert(1)>", "[prize](javascript:alert(1))"),
    }
    text = unblinded(board({"s-a": 0.5, "s-b": 0.6}), names).to_markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    # A backslash makes the next character a plain one, itself included; what is left of `|` divides cells.
    plain = [re.sub(r"\\.", "", line) for line in lines]
    assert len({line.count("|") for line in plain}) == 1
    assert not any(sign in line for line in plain for sign in "<[`")


def test_accepted_risks_are_told_behind_the_board_and_only_where_there_are_some() -> None:
    found = board({"s-a": 0.5})
    told = json.loads(found.to_json(["core_files"]))
    assert told.pop("accepted_risks") == ["core_files"]
    assert told == json.loads(found.to_json())


def test_scores_are_compared_exactly_and_never_rounded() -> None:
    close = math.nextafter(0.5, 1)
    found = board({"s-a": close, "s-b": 0.5})
    assert [(row.rank, row.submission) for row in found.rows] == [(1, "s-b"), (2, "s-a")]
    assert json.loads(found.to_json())["rows"][1]["score"] == close
    assert float(list(csv.DictReader(io.StringIO(found.to_csv())))[1]["score"]) == close


def test_greater_wins_where_the_metric_says_so() -> None:
    evaluations = [evaluation("s-a"), evaluation("s-b")]
    scores = [score("s-a", 0.6, "roc_auc"), score("s-b", 0.7, "roc_auc")]
    found = leaderboard("private_test", [find_metric("roc_auc")], evaluations, scores)
    assert [row.submission for row in found.rows] == ["s-b", "s-a"]


@given(st.lists(st.floats(allow_nan=False), max_size=30), st.booleans())
def test_ranks_are_those_of_competitions(values: list[float], greater: bool) -> None:
    expected = rankdata([-value for value in values] if greater else values, method="min")
    assert competition_ranks(values, greater_is_better=greater) == list(expected)


def test_a_missing_score_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="missing"):
        competition_ranks([0.5, math.nan], greater_is_better=False)


def test_whoever_has_no_score_is_listed_apart_with_verdict_and_blame() -> None:
    found = board({"s-a": 0.5, "s-b": Verdict.TIME_LIMIT, "s-c": Verdict.NODE_LOST, "s-d": None, "s-e": Verdict.OK})
    assert [row.submission for row in found.rows] == ["s-a"]
    assert [(u.submission, u.verdict, u.blame) for u in found.unscored] == [
        ("s-b", "time_limit", "submission"),
        ("s-c", "node_lost", "host"),
        ("s-d", None, "none"),
        ("s-e", "ok", "none"),
    ]
    assert found.unscored[3].reason == "It was not scored yet."
    assert not found.complete


def test_an_undefined_metric_is_no_score_and_the_board_is_complete_without_it() -> None:
    evaluations = [evaluation("s-a"), evaluation("s-b")]
    scores = [score("s-a", 0.6, "roc_auc"), score("s-a", 0.6), score("s-b", 0.7)]
    found = leaderboard("private_test", [find_metric("roc_auc"), find_metric("log_loss")], evaluations, scores)
    assert [row.submission for row in found.rows] == ["s-a"]
    assert found.unscored[0].reason == "The metric roc_auc is undefined for these predictions."
    assert found.complete


def test_a_score_without_a_valid_verdict_is_never_ranked() -> None:
    reopened = replace(evaluation("s-a"), verdict=None)
    found = leaderboard("private_test", LOG_LOSS, [reopened], [score("s-a", 0.1)])
    assert found.rows == ()
    assert [u.submission for u in found.unscored] == ["s-a"]


def test_the_constant_half_is_a_line_and_not_an_entry() -> None:
    found = board({"s-a": 0.5, "s-b": 0.7, "s-c": 0.6}, reference_score=math.log(2))
    assert found.reference is not None
    assert (found.reference.score, found.reference.rank) == (math.log(2), 3)
    assert len(found.rows) == 3


def test_what_a_constant_half_scores() -> None:
    assert constant_half(find_metric("log_loss")) == math.log(2)
    assert constant_half(find_metric("brier")) == 0.25
    assert constant_half(find_metric("roc_auc")) == 0.5
    assert constant_half(find_metric("accuracy")) is None
    assert constant_half(find_metric("accuracy"), np.array([1.0, 1.0, 0.0, 1.0])) == 0.75
    assert constant_half(find_metric("roc_auc"), np.array([1.0, 1.0])) is None


def test_the_public_board_stands_beside_the_private_one() -> None:
    public = board({"s-a": 0.1, "s-b": 0.3, "s-c": 0.2}, phase="public_test")
    found = board({"s-a": 0.9, "s-b": 0.3, "s-d": 0.4}, public=public)
    assert [(r.submission, r.rank, r.public_rank, r.public_score) for r in found.rows] == [
        ("s-b", 1, 3, 0.3),
        ("s-d", 2, None, None),
        ("s-a", 3, 1, 0.1),
    ]
    document = json.loads(found.to_json())
    assert document["public_phase"] == "public_test"
    assert document["rows"][0]["public"] == {"rank": 3, "score": 0.3}
    assert document["rows"][1]["public"] == {"rank": None, "score": None}
    assert "rank on public_test" in found.to_markdown()


def test_json_has_the_stable_shape_first() -> None:
    document = json.loads(board({"s-a": 0.5, "s-b": Verdict.CRASHED}).to_json())
    assert list(document)[:4] == ["phase", "metric", "rows", "unscored"]
    assert (document["phase"], document["metric"]) == ("private_test", "log_loss")
    assert list(document["rows"][0])[:3] == ["rank", "submission", "score"]
    assert list(document["unscored"][0])[:3] == ["submission", "verdict", "blame"]


@given(st.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_the_order_of_the_rows(shuffler: random.Random) -> None:
    values = {"s-a": 0.5, "s-b": 0.5, "s-c": 0.25, "s-d": Verdict.CRASHED, "s-e": Verdict.TIME_LIMIT}
    items = list(values.items())
    shuffler.shuffle(items)
    one, other = board(values), board(dict(items))
    assert one.to_json() == other.to_json()
    assert one.to_csv() == other.to_csv()
    assert one.to_markdown() == other.to_markdown()


def test_csv_puts_the_unscored_last_without_rank_or_score() -> None:
    rows = list(csv.DictReader(io.StringIO(board({"s-a": Verdict.CRASHED, "s-b": 0.5}).to_csv())))
    assert [(r["rank"], r["submission"], r["score"], r["verdict"], r["blame"]) for r in rows] == [
        ("1", "s-b", "0.5", "ok", "none"),
        ("", "s-a", "", "crashed", "submission"),
    ]


def test_names_appear_only_on_an_unblinded_board_and_cannot_harm() -> None:
    blind = board({"s-a": 0.5, "s-b": Verdict.CRASHED})
    named = unblinded(blind, {"s-a": ("first|try\nhere", '=HYPERLINK("x")'), "s-b": ("second", "Team B")})
    assert "name" not in json.loads(blind.to_json())["rows"][0]
    assert json.loads(named.to_json())["rows"][0]["team_name"] == '=HYPERLINK("x")'
    assert next(csv.DictReader(io.StringIO(named.to_csv())))["team_name"] == '\'=HYPERLINK("x")'
    assert "first\\|try here" in named.to_markdown()


def test_other_phases_stay_out() -> None:
    found = leaderboard(
        "private_test",
        LOG_LOSS,
        [evaluation("s-a"), evaluation("s-b", phase="public_test")],
        [score("s-a", 0.4), score("s-b", 0.1, phase="public_test")],
    )
    assert [row.submission for row in found.rows] == ["s-a"]


def test_an_empty_board_is_a_board() -> None:
    found = board({})
    assert json.loads(found.to_json())["rows"] == []
    assert found.complete
    assert found.to_csv().count("\r\n") == 1
