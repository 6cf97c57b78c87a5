"""What was decided about a board by hand and what was judged again, together: the board, its bundle and its tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from audit_world import PHASES, _run, make_campaign, named, opened
from referee import rejudgings
from referee.audit import verify_bundle
from referee.cli import main
from referee.errors import ConfigurationError
from referee.ledger import EvaluationHeld, Identity, Ledger, SubmissionRefused, queries
from referee.publication import write_bundle_of
from referee.rulings import Ruling
from referee.scoring.rejudging import Selection
from referee.workspace import Workspace

PHASE = "private_test"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_campaign(tmp_path_factory.mktemp("finished") / "challenge", submissions=4)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "challenge")


def metric(folder: Path, line: str) -> None:
    path = folder / "challenge.toml"
    before, _, _ = path.read_text().partition("[metric]")
    path.write_text(f"{before}[metric]\n{line}\n[uncertainty]\nreplicates = 200\n")


def another_result(workspace: Workspace, ledger: Ledger, number: int, values: list[float]) -> None:
    """A further submission that runs on the private phase, with these predictions for all files by turns."""
    event, who = named(number, f"Team {number}")
    ledger.append([event], identities=[who])
    data = workspace.record(PHASE)[0]
    predictions = [values[place % len(values)] for place in range(len(data.names))]
    with ledger.lead(host="a-host") as lease:
        lease.append(_run(workspace, who.submission, PHASE, number, data.names, np.array(predictions)))


def test_results_of_an_older_metric_keep_a_rejudging_from_being_applied(folder: Path) -> None:
    metric(folder, 'name = "accuracy"')
    workspace, ledger = opened(folder)
    with ledger:
        row = rejudgings.stage(workspace, ledger, PHASE, Selection(), limits=None)
        rejudgings.score_staged(workspace, ledger, row)
    metric(folder, 'name = "log_loss"\nsecondary = ["brier"]')
    workspace, ledger = opened(folder)
    with ledger:
        another_result(workspace, ledger, 20, [0.4, 0.6])
        assert len(workspace.score(ledger, PHASE).events) == 1
    metric(folder, 'name = "accuracy"')
    workspace, ledger = opened(folder)
    with ledger, pytest.raises(ConfigurationError, match=r"another metric.*s-000020"):
        rejudgings.apply(workspace, ledger, row, "a test")


def test_a_metric_that_is_none_is_found_before_anything_runs(folder: Path) -> None:
    metric(folder, 'name = "log_los"')
    with pytest.raises(ConfigurationError, match="There is no metric 'log_los'"):
        Workspace.open(folder).record(PHASE)


def test_everything_at_once_is_one_board_that_an_auditor_gets_too(folder: Path, tmp_path: Path) -> None:
    workspace, ledger = opened(folder)
    with ledger:
        # Two that tie, one of them disqualified; one whose image was refused; one that was held back.
        for number in (20, 21):
            another_result(workspace, ledger, number, [0.4, 0.7])
        who = Identity.new("s-000030", "t-30", "refused", "Team 30")
        refused = SubmissionRefused(
            submission=who.submission,
            team=who.team,
            submission_kind="cpu",
            reason="=cmd|' /C calc'!A0",
            identity_commitment=who.commitment,
        )
        ledger.append([refused], identities=[who])
        event, who = named(40, "Team 40")
        ledger.append([event], identities=[who])
        with ledger.lead(host="a-host") as lease:
            lease.append([EvaluationHeld(submission="s-000040", phase=PHASE, reason="It did not reproduce.")])
        workspace.score(ledger, PHASE)
        tied = {row.submission: row.rank for row in workspace.board(ledger, PHASE).rows}
        assert tied["s-000020"] == tied["s-000021"]
    for verb, submission in (
        ("disqualify", "s-000020"),
        ("withdraw", "s-000040"),
        ("withdraw", "s-000001"),
        ("disqualify", "s-000001"),
        ("reinstate", "s-000001"),
    ):
        assert main(["ruling", verb, submission, "--reason", "@because", "--challenge", str(folder)]) == 0
    # Wrong labels are found, after all that.
    labels = folder / "labels" / f"{PHASE}.csv"
    lines = labels.read_text().splitlines()
    flipped = f"{lines[1][:-1]}{1 - int(lines[1][-1])}"
    labels.write_text("\n".join([lines[0], flipped, *lines[2:]]) + "\n")
    workspace, ledger = opened(folder)
    with ledger:
        row = rejudgings.stage(workspace, ledger, PHASE, Selection(), limits=None)
        assert "s-000020" in row.submissions
        rejudgings.score_staged(workspace, ledger, row)
        rejudgings.apply(workspace, ledger, row, "a label was wrong")
        board = workspace.board(ledger, PHASE)
        assert sorted(board.submissions) == sorted(set(board.submissions))  # nobody stands in two places
        assert {one.submission: one.ruling for one in board.ruled} == {
            "s-000020": Ruling.DISQUALIFY,
            "s-000040": Ruling.WITHDRAW,
        }
        assert [one.score is not None for one in board.ruled] == [True, False]
        assert {one.submission for one in board.unscored} == {"s-000009", "s-000030"}
        assert ",=" not in board.to_csv()
        assert ",'@because" in board.to_csv()
        assert board.complete
        entries = {one.entry for one in workspace.analysis(ledger, PHASE).standings.entries}  # type: ignore[union-attr]  # there are results
        assert entries == {one.submission for one in board.rows}
        ledger.verify()
        ledger.rebuild()
        assert workspace.board(ledger, PHASE) == board
        write_bundle_of(workspace, ledger, tmp_path / "b.tar", unblind=True)
        assert not queries.held(ledger, "public_test")
    found = verify_bundle(tmp_path / "b.tar", labels=[labels, folder / "labels" / "public_test.csv"])
    assert {one.phase for one in found.recomputed} == set(PHASES)
