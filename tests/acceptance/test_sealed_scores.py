"""While a phase is sealed, no command shows its scores in anything that it prints or writes; every command is tried."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from audit_world import make_campaign, members, opened, rechained, signed
from referee.audit import BundleError, parse_anchor, verify_bundle
from referee.cli import every_command, main
from referee.errors import ConflictError, LedgerError
from referee.ledger import ConfirmationRecorded, ConfirmedRun, queries
from referee.publication import anchor_line, release, write_bundle_of
from referee.verdicts import Verdict

SEALED = "private_test"

# What is typed after a command's name. A command that is not here is tried with nothing and with the phase alone, so
# that a new one is tried too; where a command needs more to come near scores, it gets a line here.
ARGUMENTS: dict[str, list[list[str]]] = {
    "init": [["../another"]],
    "doctor": [["--no-prove"], ["--no-prove", "--json"]],
    "show": [["s-000001"], ["s-000001", "--json"]],
    "logs": [["s-000001.private_test.1"]],
    "check": [["labels/private_test.csv", "--phase", SEALED]],
    "try": [["nothing"]],
    "bundle": [[], ["--anchor"], ["--without-predictions"], ["--unblind"], ["--json"]],
    "verify": [["audited.bundle.tar"], ["audited.bundle.tar", "--json", "--labels", "labels/private_test.csv"]],
    "seal": [["--phase", SEALED, "--reason", "again"]],
    "unseal": [["--phase", SEALED, "--reason", ""]],
    "report": [[], ["--phase", SEALED], ["--no-analysis"], ["--unblind"], ["--phase", "public_test"]],
    "leaderboard": [["--phase", SEALED, *more] for more in ([], ["--json"], ["--csv"], ["--markdown"], ["--unblind"])],
    "analyse": [["--phase", SEALED], ["--phase", SEALED, "--json"]],
    "export kaggle": [["handed-back", "--phase", SEALED]],
    "ledger events": [[], ["--json"]],
    "submissions import": [["submissions.csv"]],
    "rejudge stage": [["--phase", SEALED, "--all", "--rescore"], ["--phase", SEALED, "--all", "--rerun"]],
    "rejudge apply": [["--reason", "x"]],
    "confirm": [["--phase", SEALED, "--top", "2"]],
    "reproduce": [["--phase", SEALED], ["--phase", SEALED, "--json"]],
    "ruling disqualify": [["s-000004", "--reason", "x"]],
    "ruling reinstate": [["s-000004", "--reason", "x"]],
    "pilot": [["--phase", SEALED]],
}
# Not tried, each for a reason that says why no score can come of it.
LEFT_OUT = {
    "run": "it starts containers; it computes no score, and its closing words are those of `status`",
    "--install-completion": "it writes shell files, and opens no challenge",
}
PHASED = ([], ["--phase", SEALED], ["--phase", SEALED, "--json"], ["--json"])


def commands(application: App | None = None, prefix: str = "") -> Iterator[str]:
    """Every command that can be typed."""
    application = every_command() if application is None else application
    for name in application:
        if name in {"--help", "-h", "--version"}:
            continue
        inner = application[name]
        nested = [n for n in inner if n not in {"--help", "-h", "--version"}] if isinstance(inner, App) else []
        if nested:
            yield from commands(inner, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The true scores, from the same campaign without a seal: as text that reads back as the very same float."""
    _, ledger = opened(make_campaign(tmp_path_factory.mktemp("open") / "challenge"))
    with ledger:
        return {repr(score.value) for score in queries.scores(ledger, SEALED)}


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_campaign(tmp_path / "challenge", sealed=True)
    monkeypatch.chdir(folder)
    return folder


def shown_in(data: bytes, scores: set[str]) -> set[str]:
    """The scores that can be read in `data`: in full, or rounded as tables and pages show them."""
    found = set()
    for score in scores:
        for text in {score, f"{float(score):.5f}", f"{float(score):.6f}"}:
            if re.search(rb"(?<![0-9.])" + re.escape(text.encode()) + rb"(?![0-9])", data):
                found.add(score)
    return found


def written(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def type_in(line: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    with contextlib.suppress(SystemExit):
        main(line)
    said = capfd.readouterr()
    return said.out + said.err


def test_the_search_would_find_a_score(twin: set[str]) -> None:
    assert len(twin) == 8
    score = min(twin)
    assert shown_in(f"log loss {score}".encode(), twin) == {score}
    assert shown_in(f"<td>{float(score):.5f}</td>".encode(), twin) == {score}


def test_no_command_shows_a_sealed_score(sealed: Path, twin: set[str], capfd: pytest.CaptureFixture[str]) -> None:
    """All commands, as the operator types them, with all that they print and write, the ledger's database included."""
    everything = sorted(commands())
    assert {"leaderboard", "analyse", "report", "bundle", "ledger events", "show", "status", "score"} <= set(everything)
    assert set(ARGUMENTS) <= set(everything), "a line of the table is of no command"
    said: dict[str, str] = {}
    type_in(["bundle"], capfd)
    for name in everything:
        if name in LEFT_OUT:
            continue
        for more in ARGUMENTS.get(name, PHASED):
            line = [*name.split(), *more]
            said[" ".join(line)] = type_in(line, capfd)
    told = {line: shown_in(text.encode(), twin) for line, text in said.items()}
    assert {line: found for line, found in told.items() if found} == {}
    files = {str(path): shown_in(data, twin) for path, data in written(sealed.parent).items()}
    assert {path: found for path, found in files.items() if found} == {}
    for line in ("leaderboard", "analyse", "confirm", "rejudge stage"):
        typed = [text for typed, text in said.items() if typed.startswith(line)]
        assert any("are sealed" in text for text in typed), line
    assert "sealed" in said["status"]
    assert "s-000001" in said["show s-000001"]
    assert "evaluation.sealed" in said["ledger events"]
    type_in(["report", "--phase", SEALED], capfd)
    page = (sealed / "report.html").read_bytes()
    assert b"sealed until release" in page
    assert not shown_in(page, twin)


def test_the_same_commands_show_the_scores_after_release(
    sealed: Path, twin: set[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """What is searched for above is what these commands would show, so that silence there means something."""
    assert "released" in type_in(["unseal", "--phase", SEALED, "--reason", "The campaign has ended."], capfd)
    assert shown_in(type_in(["leaderboard", "--phase", SEALED, "--json"], capfd).encode(), twin) == twin
    assert shown_in(type_in(["ledger", "events", "--json"], capfd).encode(), twin) == twin
    type_in(["report"], capfd)
    assert shown_in((sealed / "report.html").read_bytes(), twin)
    type_in(["bundle"], capfd)
    assert shown_in((sealed / "audited.bundle.tar").read_bytes(), twin) == twin


def test_scoring_says_nothing_but_how_many(sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "private_test: 0 scored now, 4 had their scores." in type_in(["score"], capfd)


def test_a_phase_is_sealed_before_its_scores_and_released_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_campaign(tmp_path / "challenge", score=False)
    place = ["--challenge", str(folder)]
    assert "not sealed" in type_in(["unseal", "--phase", SEALED, "--reason", "x", *place], capfd)
    assert "is sealed" in type_in(["seal", "--phase", SEALED, "--reason", "A prize.", *place], capfd)
    assert "is sealed already" in type_in(["seal", "--phase", SEALED, *place], capfd)
    type_in(["score", *place], capfd)
    assert "needs a reason" in type_in(["unseal", "--phase", SEALED, "--reason", " ", *place], capfd)
    assert "released: 4" in type_in(["unseal", "--phase", SEALED, "--reason", "It is over.", *place], capfd)
    assert "released already" in type_in(["seal", "--phase", SEALED, *place], capfd)
    assert "could be seen already" in type_in(["seal", "--phase", "public_test", *place], capfd)


def test_the_ledger_itself_refuses_what_would_tell(sealed: Path) -> None:
    _, ledger = opened(sealed)
    run = ConfirmedRun(submission="s-000001", series="c-1", verdict=Verdict.OK, score="0.5", rank=1)
    event = ConfirmationRecorded(confirmation="c-1", phase=SEALED, top=1, machine_type="local", runs=(run,))
    with ledger, pytest.raises(LedgerError, match="are sealed"):
        ledger.append([event])


def test_without_the_key_nothing_is_released(sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    key = sealed / ".referee" / "seal.key"
    key.rename(sealed / "kept")
    assert "cannot be opened" in type_in(["unseal", "--phase", SEALED, "--reason", "x"], capfd)
    key.unlink()
    (sealed / "kept").rename(key)
    assert "released: 4" in type_in(["unseal", "--phase", SEALED, "--reason", "x"], capfd)


# What a sealed bundle commits to


def test_a_sealed_bundle_commits_and_the_later_one_must_keep_it(sealed: Path, tmp_path: Path) -> None:
    workspace, ledger = opened(sealed)
    early, late = tmp_path / "early.tar", tmp_path / "late.tar"
    with ledger:
        write_bundle_of(workspace, ledger, early)
        line = anchor_line(workspace, ledger)
        release(workspace, ledger, SEALED, "It is over.")
        write_bundle_of(workspace, ledger, late)
    assert any("4 sealed scores" in one for one in verify_bundle(early).open)
    labels = [sealed / "labels" / f"{phase}.csv" for phase in ("public_test", SEALED)]
    found = verify_bundle(late, labels=labels, anchors=[parse_anchor(line)])
    assert [one.scores for one in found.recomputed] == [8, 8]


@pytest.mark.parametrize("how", ["another score", "another salt", "no salt", "never opened"])
def test_only_what_was_sealed_can_be_opened(sealed: Path, tmp_path: Path, how: str) -> None:
    """The operator, with the operator's own key, after release: other scores than those that were committed to."""
    workspace, ledger = opened(sealed)
    with ledger:
        release(workspace, ledger, SEALED, "It is over.")
        write_bundle_of(workspace, ledger, tmp_path / "late.tar")

    def change(events: list[dict]) -> list[dict]:
        place = next(n for n, e in enumerate(events) if e["payload"].get("salt"))
        payload = events[place]["payload"]
        if how == "never opened":
            return events[:place] + events[place + 1 :]
        if how == "another score":
            payload["scores"]["log_loss"] = "0.001"
        else:
            payload["salt"] = None if how == "no salt" else "0" * 64
        return events

    found = members(tmp_path / "late.tar")
    forged = tmp_path / "forged.tar"

    def forge() -> None:
        # With another score the chain itself makes no sense any more, so the forger gets no further.
        forged.write_bytes(signed(rechained(found, change), workspace.signing_key))
        verify_bundle(forged)

    why = "was never opened" if how == "never opened" else "are not the scores of .* that were sealed"
    with pytest.raises(BundleError, match=why):
        forge()


def test_a_sealed_score_that_is_taken_back_is_noticed(sealed: Path, tmp_path: Path) -> None:
    """The gate is in the ledger too: no score event is taken while the phase is sealed."""
    workspace, ledger = opened(sealed)
    with ledger:
        assert queries.scores(ledger, SEALED) == ()
        with pytest.raises(ConflictError, match="sealed"):
            workspace.analysis(ledger, SEALED)


def test_other_processes_are_refused_as_well(sealed: Path) -> None:
    """Through the installed program, whose streams nothing captures inside."""
    command = [sys.executable, "-c", "import sys; from referee.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "leaderboard", "--phase", SEALED],
        cwd=sealed,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 4
    assert "sealed" in done.stderr
    assert done.stdout == ""


def test_the_sealed_ledger_can_be_rebuilt_and_checked(sealed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sealed, copy)
    _, ledger = opened(copy)
    with ledger:
        ledger.rebuild()
        ledger.verify()
        assert len(queries.sealed_scores(ledger, SEALED)) == 4
        assert json.loads(queries.sealed_scores(ledger, SEALED)[0].metrics) == ["brier", "log_loss"]
