"""Rulings: which make sense after which, and that the board after any of them is the board made from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_histories import new_ledger, small_campaign
from scoring_rows import WHEN, evaluation, score

from referee.errors import LedgerError
from referee.ledger import Ledger, SubmissionRuled, queries
from referee.ledger.queries import RulingRow
from referee.rulings import PAST, Ruling, objection, taken_off
from referee.scoring.leaderboard import leaderboard
from referee.scoring.metric import find_metric

METRICS = [find_metric("log_loss"), find_metric("brier")]
NAMES = [f"s-{place}" for place in range(6)]
ROWS = [evaluation(name) for name in NAMES]
SCORES = [score(name, value) for name, value in zip(NAMES, [0.3, 0.3, 0.5, 0.2, 0.9, 0.5], strict=True)]


def ruling(submission: str, what: Ruling, seq: int = 1) -> RulingRow:
    return RulingRow(seq, submission, "t-1", what, "because", WHEN)


@pytest.mark.parametrize(
    ("earlier", "next_", "why"),
    [
        ([], Ruling.DISQUALIFY, None),
        ([Ruling.DISQUALIFY], Ruling.DISQUALIFY, "it is disqualified already"),
        ([Ruling.DISQUALIFY], Ruling.WITHDRAW, "it is disqualified already"),
        ([Ruling.WITHDRAW], Ruling.WITHDRAW, "it is withdrawn already"),
        ([Ruling.WITHDRAW], Ruling.DISQUALIFY, None),
        ([], Ruling.REINSTATE, "it stands: nothing keeps it off the board"),
        ([Ruling.DISQUALIFY, Ruling.REINSTATE], Ruling.REINSTATE, "it stands: nothing keeps it off the board"),
        ([Ruling.WITHDRAW, Ruling.DISQUALIFY], Ruling.REINSTATE, None),
        ([Ruling.DISQUALIFY, Ruling.REINSTATE], Ruling.DISQUALIFY, None),
        ([], Ruling.ADMIT, None),
        ([Ruling.ADMIT, Ruling.DISQUALIFY], Ruling.ADMIT, "it is admitted already"),
    ],
)
def test_which_ruling_makes_sense_after_which(earlier: list[Ruling], next_: Ruling, why: str | None) -> None:
    assert objection(earlier, next_) == why


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(Ruling)), max_size=30))
def test_the_board_after_any_rulings_is_the_board_made_without_those_who_are_off(
    wanted: list[tuple[str, Ruling]],
) -> None:
    history: dict[str, list[Ruling]] = {name: [] for name in NAMES}
    in_force: dict[str, RulingRow] = {}
    for seq, (name, what) in enumerate(wanted):
        if objection(history[name], what) is None:
            history[name].append(what)
            # As `queries.taken_off` keeps it.
            if what is Ruling.REINSTATE:
                in_force.pop(name)
            elif what is not Ruling.ADMIT:
                in_force[name] = ruling(name, what, seq)
    off = {name for name in NAMES if taken_off(history[name])}
    assert off == set(in_force)
    board = leaderboard("private_test", METRICS, ROWS, SCORES, rulings=list(in_force.values()))
    scratch = leaderboard(
        "private_test",
        METRICS,
        [row for row in ROWS if row.submission not in off],
        [one for one in SCORES if one.submission not in off],
    )
    assert replace(board, ruled=()) == scratch
    assert {one.submission: one.ruling for one in board.ruled} == {name: row.ruling for name, row in in_force.items()}
    assert {one.submission for one in board.ruled} | {row.submission for row in board.rows} == set(NAMES)


def test_whoever_is_off_keeps_score_and_reason_but_has_no_rank_in_any_format() -> None:
    off = replace(ruling("s-3", Ruling.DISQUALIFY), reason='=1+1 | "code" shared')
    board = leaderboard("private_test", METRICS, ROWS, SCORES, rulings=[off])
    assert [(one.score, one.reason) for one in board.ruled] == [(0.2, '=1+1 | "code" shared')]
    assert [row.rank for row in board.rows] == [1, 1, 3, 3, 5]
    assert ',s-3,t-1,,,,,disqualified,"\'=1+1 | ""code"" shared"' in board.to_csv()
    assert "| s-3 | t-1 | disqualified | 0.20000 |" in board.to_markdown()
    assert '"ruling": "disqualify"' in board.to_json()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = new_ledger(tmp_path)
    small_campaign(made)
    return made


def test_the_ledger_itself_refuses_a_ruling_that_makes_no_sense(ledger: Ledger) -> None:
    ledger.append([SubmissionRuled(submission="s-1", ruling=Ruling.DISQUALIFY, reason="shared code")])
    for what in (Ruling.DISQUALIFY, Ruling.WITHDRAW):
        with pytest.raises(LedgerError, match=PAST[Ruling.DISQUALIFY]):
            ledger.append([SubmissionRuled(submission="s-1", ruling=what, reason="again")])
    with pytest.raises(LedgerError, match="no submission"):
        ledger.append([SubmissionRuled(submission="s-9", ruling=Ruling.WITHDRAW, reason="who")])
    assert list(queries.taken_off(ledger)) == ["s-1"]
    ledger.append([SubmissionRuled(submission="s-1", ruling=Ruling.REINSTATE, reason="an appeal")])
    assert queries.taken_off(ledger) == {}
    assert [row.ruling for row in queries.rulings(ledger)] == [Ruling.DISQUALIFY, Ruling.REINSTATE]
    ledger.verify()


@settings(max_examples=10)
@given(rules=st.lists(st.tuples(st.sampled_from(["s-1", "s-2"]), st.sampled_from(Ruling)), max_size=12))
def test_tables_follow_from_the_rulings(
    tmp_path_factory: pytest.TempPathFactory, rules: list[tuple[str, Ruling]]
) -> None:
    with new_ledger(tmp_path_factory.mktemp("rulings")) as ledger:
        small_campaign(ledger)
        for submission, what in rules:
            earlier = [row.ruling for row in queries.rulings(ledger) if row.submission == submission]
            event = SubmissionRuled(submission=submission, ruling=what, reason="because")
            if objection(earlier, what) is None:
                ledger.append([event])
            else:
                with pytest.raises(LedgerError):
                    ledger.append([event])
        before = queries.taken_off(ledger)
        ledger.rebuild()
        assert queries.taken_off(ledger) == before
        ledger.verify()
