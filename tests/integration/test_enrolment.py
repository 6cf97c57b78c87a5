"""Enrolment: every row of a manifest is accounted for, whether its image is accepted or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from board_world import busybox_image, make_challenge
from image_layouts import layout, tar
from referee.enrolment import Enrolled, Enrolment
from referee.errors import ConflictError, LedgerError
from referee.ledger import Ledger, queries
from referee.submissions import BlindKey, read_manifest
from referee.verdicts import Verdict
from referee.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = make_challenge(tmp_path / "challenge", {"one": ("true", "ok"), "two": ("true # 2", "ok")})
    layout(folder / "images" / "broken", tar(("empty", b"")), Cmd=None, Entrypoint=None)
    (folder / "submissions.csv").write_text(
        "submission,team,image,kind\none,A,oci:images/0,cpu\ntwo,A,oci:images/1,cpu\n"
        "no program,B,oci:images/broken,cpu\ncopy,C,oci:images/0,gpu\n"
    )
    return Workspace.open(folder)


def enrol(workspace: Workspace, ledger: Ledger) -> dict[str, Enrolled]:
    key = BlindKey.open(workspace.state / "blind.key")
    enrolment = Enrolment(ledger, workspace.images, key, workspace.challenge.contract)
    rows = read_manifest(workspace.challenge.folder / "submissions.csv", workspace.challenge.finals_per_team)
    return {result.row.submission: result for result in enrolment.enrol(rows)}


def test_a_refused_image_holds_up_nobody_and_stands_on_the_board(workspace: Workspace) -> None:
    with workspace.ledger_or_new() as ledger:
        results = enrol(workspace, ledger)
        assert results["no program"].error is not None
        assert len(queries.submissions(ledger)) == 3
        (refused,) = queries.refusals(ledger)
        assert refused.submission == results["no program"].submission
        ledger.verify()
        board = workspace.board(ledger, "private_test")
        assert [(entry.submission, entry.verdict) for entry in board.unscored] == [
            (refused.submission, Verdict.BAD_IMAGE)
        ]


def test_mending_the_image_lifts_the_refusal_under_the_same_blind_id(workspace: Workspace) -> None:
    with workspace.ledger_or_new() as ledger:
        first = enrol(workspace, ledger)["no program"]
        shutil.rmtree(workspace.challenge.folder / "images" / "broken")
        busybox_image(workspace.challenge.folder / "images" / "broken", "true # mended")
        second = enrol(workspace, ledger)["no program"]
        assert second.submission == first.submission
        assert second.record is not None
        assert queries.refusals(ledger) == ()
        assert len(queries.submissions(ledger)) == 4
        ledger.verify()
        ledger.rebuild()
        ledger.verify()


def test_the_same_image_twice_is_reported_whoever_arrives_first(workspace: Workspace) -> None:
    with workspace.ledger_or_new() as ledger:
        results = enrol(workspace, ledger)
    pair = {results["one"].submission: results["one"], results["copy"].submission: results["copy"]}
    named = [(blind, result.same_image_as) for blind, result in pair.items() if result.same_image_as]
    assert len(named) == 1
    assert set(named[0]) == set(pair)


def test_enrolling_again_changes_nothing(workspace: Workspace) -> None:
    with workspace.ledger_or_new() as ledger:
        enrol(workspace, ledger)
        submissions = queries.submissions(ledger)
        again = enrol(workspace, ledger)
        assert queries.submissions(ledger) == submissions
        assert all(result.record is None for name, result in again.items() if name != "no program")


def test_what_was_imported_can_not_be_refused_afterwards(workspace: Workspace) -> None:
    with workspace.ledger_or_new() as ledger:
        enrol(workspace, ledger)
        event = next(
            iter(ledger.events(*[type(e.event) for e in ledger.events() if e.event.kind == "submission.refused"]))
        )
        imported = queries.submissions(ledger)[0].submission
        with pytest.raises(LedgerError, match="was imported before"):
            ledger.append([event.event.model_copy(update={"submission": imported})])


def test_nothing_is_pruned_before_it_is_recorded(workspace: Workspace) -> None:
    refused = []

    def prune(_: Enrolled) -> None:
        with pytest.raises(ConflictError):
            workspace.images.prune(list)
        refused.append(True)

    with workspace.ledger_or_new() as ledger:
        key = BlindKey.open(workspace.state / "blind.key")
        rows = read_manifest(workspace.challenge.folder / "submissions.csv", workspace.challenge.finals_per_team)
        Enrolment(ledger, workspace.images, key, workspace.challenge.contract).enrol(rows, prune)
        assert len(refused) == len(rows)
        pruned = workspace.images.prune(lambda: {row.image for row in queries.submissions(ledger)})
        assert pruned.images == ()
        assert pruned.kept == 2
