"""What the report tells of rulings, reproduction, rejudgings and the prize zone run again."""

from __future__ import annotations

from dataclasses import replace

from ledger_histories import digest
from scoring_rows import WHEN
from test_report import Page, example

from referee.challenge import MetricChoice
from referee.ledger.events import ConfirmationRecorded, ConfirmedRun
from referee.ledger.queries import RejudgingRow
from referee.report import render_report
from referee.report.review import review
from referee.rulings import Ruling
from referee.scoring.leaderboard import Ruled
from referee.scoring.reproduction import Cause, Outcome, Reproduction
from referee.verdicts import Verdict

HOSTILE = '<script>alert("x")</script> used the test faces'


def found(submission: str, outcome: Outcome, cause: Cause, explanation: str) -> Reproduction:
    return Reproduction(submission, outcome, cause, 0.3, 0.5, 0.2, None, None, None, explanation)


def rejudging(state: str, reason: str, phase: str = "private_test") -> RejudgingRow:
    return RejudgingRow(
        rejudging="rejudging-1",
        phase=phase,
        method="rescore",
        submissions=("s-1", "s-2"),
        selection="all",
        metric_choice=MetricChoice(),
        labels_digest=digest(1),
        before=digest(2),
        after=digest(3),
        state=state,
        reason=reason,
        staged_at=WHEN,
        closed_at=WHEN,
    )


def confirmation(*same: bool) -> ConfirmationRecorded:
    runs = tuple(
        ConfirmedRun(
            submission="s-1",
            series=f"confirmation-1-{place}",
            verdict=Verdict.OK,
            same_predictions=one,
            score="0.25",
            rank=2,
            node=f"m-{place}",
            official_node="m-2",
            fresh_node=place != 2,
        )
        for place, one in enumerate(same)
    )
    return ConfirmationRecorded(
        confirmation="confirmation-1", phase="private_test", top=3, machine_type="g4dn", runs=runs
    )


def test_nothing_is_said_where_nothing_was_done() -> None:
    text = Page(render_report(example())).text
    assert not any(word in text for word in ("Taken off the board", "Reproduction", "run again", "Rejudgings"))


def test_rulings_reproduction_rejudgings_and_confirmations_are_told_and_hostile_words_are_inert() -> None:
    data = example()
    off = Ruled("s-9", "t-9", Ruling.DISQUALIFY, HOSTILE, 0.1)
    told = review(
        "private_test",
        "public_test",
        [
            found("s-1", Outcome.EXACT, Cause.NONE, "the same"),
            found("s-2", Outcome.FAILED, Cause.SUBMISSION, "ended as time_limit"),
            found("s-3", Outcome.DIFFERENT, Cause.CLIPPING, "clipped at 1e-05"),
        ],
        [
            rejudging("applied", "three labels were wrong"),
            rejudging("cancelled", "never mind"),
            rejudging("applied", "elsewhere", "public_test"),
        ],
        [confirmation(True, False, True)],
    )
    html = render_report(replace(data, board=replace(data.board, ruled=(off,)), review=told))
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.text
    assert (
        "2 of 3 submissions (67%) could be re-run. 1 of the 2 with a recorded score (50%) gave it again." in page.text
    )
    assert page.text.index("clipped at 1e-05") < page.text.index("ended as time_limit")
    assert "three labels were wrong" in page.text
    assert "never mind" not in page.text
    assert "elsewhere" not in page.text
    assert "2 of 3 further runs gave the very same predictions" in page.text
    assert all(f"confirmation-1-{place}" in page.text for place in range(3))
    assert "2 of 3 runs were on a machine that had not run their submission before." in page.text
    assert "m-2 (again)" in page.text
