"""`referee score`, `leaderboard`, `analyse` and `report`: from accepted predictions to the board and its worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from referee.challenge import markets
from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, Unblind, app
from referee.cli.gate import refuse_sealed
from referee.engines.machine_lives import noted_lives
from referee.errors import CheckFailedError, ConfigurationError
from referee.ledger import IdentitiesUnblinded, Ledger, queries
from referee.reproductions import reproduction_phase, standing
from referee.rulings import PAST
from referee.scoring.analysis import Analysis
from referee.scoring.leaderboard import Leaderboard, Row, Ruled, Unscored, unblinded
from referee.scoring.score import Scoring
from referee.scoring.standings import Standings
from referee.workspace import Workspace

if TYPE_CHECKING:
    from referee.report.machine_bill import MachineBill
    from referee.report.review import Review

_GROUPED = 5  # more columns do not fit a terminal; the JSON holds all

Phase = Annotated[str | None, Parameter(help="Which phase; by default the private one that was run.")]


@app.command
def score(
    *,
    phase: Annotated[str | None, Parameter(help="Only this phase; by default every phase that was run.")] = None,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Score what is valid and has no score yet. What was scored under the same labels is never scored twice."""
    workspace = Workspace.open(challenge)
    done: dict[str, Scoring] = {}
    with workspace.ledger() as ledger:
        run = {row.phase for row in queries.evaluations(ledger)}
        if phase is not None:
            workspace.challenge.phase(phase)
        names = (
            [phase] if phase else [name for name, p in workspace.challenge.phases.items() if name in run and p.labels]
        )
        if not names:
            raise ConfigurationError("Nothing was evaluated yet.", hint="Begin with `referee run --phase PHASE`.")
        for name in names:
            done[name] = workspace.score(ledger, name)
    if json:
        screen.print_json({name: _counts(scoring) for name, scoring in done.items()})
    else:
        for name, scoring in done.items():
            screen.say(f"{name}: {len(scoring.events)} scored now, {scoring.already} had their scores.")
    refused = [refused for scoring in done.values() for refused in scoring.refused]
    if refused:
        raise CheckFailedError(
            f"{len(refused)} valid results could not be scored: "
            + "; ".join(f"{one.evaluation}: {one.reason}" for one in refused),
            hint="Nothing else is affected; find out what happened to these results in the object store.",
        )


def _counts(scoring: Scoring) -> dict[str, object]:
    return {
        "scored": len(scoring.events),
        "already": scoring.already,
        "refused": {refused.evaluation: refused.reason for refused in scoring.refused},
    }


@app.command
def leaderboard(
    *,
    phase: Phase = None,
    challenge: Folder = HERE,
    json: AsJson = False,
    csv: Annotated[bool, Parameter(name="--csv", negative="", help="Print CSV.")] = False,
    markdown: Annotated[bool, Parameter(name="--markdown", negative="", help="Print Markdown.")] = False,
    unblind: Unblind = False,
) -> None:
    """The board: ranks, scores, the public board beside the private one, and whoever has no score, with the reason.

    Risks of the sandbox that the operator accepted are printed with it; in the JSON under `accepted_risks`.
    """
    if json + csv + markdown > 1:
        raise ConfigurationError(
            "The board is printed in one form: give one of --json, --csv and --markdown.", hint="Or none, for a table."
        )
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        name = workspace.phase_or_default(ledger, phase)
        refuse_sealed(ledger, name)
        board = workspace.board(ledger, name)
        risks = queries.accepted_risks(ledger)
        if unblind:
            board = _named(ledger, board, "leaderboard")
    if json:
        screen.print_document(board.to_json(risks))
    elif csv:
        sys.stdout.write(board.to_csv())
    elif markdown:
        sys.stdout.write(board.to_markdown())
        if risks:
            sys.stdout.write(f"\nRisks that the operator accepted: {', '.join(risks)}.\n")
    else:
        _print_board(board)
        if risks:
            screen.say(f"Risks that the operator accepted: {', '.join(risks)}.")


@app.command
def analyse(*, phase: Phase = None, challenge: Folder = HERE, json: AsJson = False) -> None:
    """What the scores are worth: intervals, rank sets, ties, the files that decide a prize, look-alikes.

    The JSON names files of the phase: it is for the operator only.
    """
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        name = workspace.phase_or_default(ledger, phase)
        found = workspace.analysis(ledger, name)
    if json:
        screen.print_json({"phase": name} | found.model_dump(mode="json"))
        return
    if found.standings is None:
        screen.say(f"Nothing has a valid result on {name}.")
        return
    _print_standings(name, found.standings)
    for boundary in found.boundaries:
        screen.say()
        screen.say(
            f"Place {boundary.place}: {boundary.winner} is ahead of {boundary.runner_up} by {boundary.gap:.6f}, "
            f"{boundary.gap_total:.3f} summed over the files."
        )
        for what, fewest in (("removed", boundary.fewest_removals), ("relabelled", boundary.fewest_relabellings)):
            files = "1 file" if fewest == 1 else f"{fewest} files"
            screen.say(f"  It would change with {files} {what}." if fewest else f"  No file {what} would change it.")
    _print_groups(found)
    _print_reliability(found)
    if found.look_alikes:
        screen.say()
        screen.print_table(
            ["look-alikes across teams", "", "why", "correlation>"],
            [(pair.one, pair.other, str(pair.likeness), f"{pair.correlation:.4f}") for pair in found.look_alikes],
        )
        screen.say("A list to look through; nothing follows from it by itself.")


def _print_groups(found: Analysis) -> None:
    best = list(found.reliability)[:_GROUPED]
    columns = dict.fromkeys(group.column for group in found.groups)
    for column in columns:
        groups = [group for group in found.groups if group.column == column]
        screen.say()
        screen.print_table(
            [column, "files>", *(f"{name}>" for name in best)],
            [
                (
                    group.value or "(empty)",
                    str(group.items),
                    *("" if (score := group.scores.get(name)) is None else f"{score:.5f}" for name in best),
                )
                for group in groups
            ],
        )
    if columns:
        screen.say("The best submissions on the files of each group; groups of few files say little.")


def _print_reliability(found: Analysis) -> None:
    for name, points in list(found.reliability.items())[:1]:
        screen.say()
        screen.print_table(
            [f"reliability of {name}", "files>", "mean prediction>", "share of fakes>"],
            [
                (
                    f"{point.low:.1f} to {point.high:.1f}",
                    str(point.items),
                    f"{point.mean_prediction:.3f}",
                    f"{point.share_of_fakes:.3f}",
                )
                for point in points
            ],
        )
        screen.say("Those of the ten best are in the report, drawn, and in --json.")


def _print_standings(phase: str, found: Standings) -> None:
    percent = f"{found.level:.0%}"
    screen.print_table(
        [
            "rank>",
            "entry",
            f"{found.metric}>",
            f"{percent} interval",
            f"{percent} rank set",
            "tie group>",
            "beats next>",
        ],
        [
            (
                str(entry.rank),
                entry.entry,
                f"{entry.score:.5f}",
                f"{entry.score_low:.5f} to {entry.score_high:.5f}",
                f"{entry.rank_low} to {entry.rank_high}",
                str(entry.tie_group),
                "" if entry.share_won_against_next is None else f"{entry.share_won_against_next:.1%}",
            )
            for entry in found.entries
        ],
        title=f"{phase}: {found.replicates} paired resamples of {found.units} "
        + ("clusters" if found.clustered else "files"),
    )
    screen.say("beats next: share of resamples in which the entry beats the one below it.")
    for warning in found.warnings:
        screen.say(f"Note: {warning}")


@app.command
def report(
    *,
    phase: Phase = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="By default report.html beside challenge.toml.")
    ] = None,
    challenge: Folder = HERE,
    analysis: Annotated[
        bool, Parameter(negative="--no-analysis", help="Tell what the scores are worth (takes longer on large boards).")
    ] = True,
    unblind: Unblind = False,
) -> None:
    """Write one self-contained HTML file: the board, pictures, runtimes, failures by cause, the bill."""
    # Imported here: drawing takes a second to load, which no other command should wait for.
    from referee.prospects.hindsight import hindsight  # noqa: PLC0415 - see above
    from referee.report import render_report, report_data  # noqa: PLC0415 - see above

    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        board = workspace.board(ledger, workspace.phase_or_default(ledger, phase))
        if unblind:
            board = _named(ledger, board, "report")
        recorded = workspace.recorded(ledger, board.phase)
        data = report_data(
            workspace.challenge,
            board,
            evaluations=queries.evaluations(ledger, board.phase),
            attempts=queries.attempts(ledger),
            as_of=queries.last_event_time(ledger),
            facts=[
                ("ledger head", ledger.head().hash),
                ("data", f"{recorded.files} files, {recorded.data_digest}"),
                ("labels", recorded.labels_digest or "none"),
                ("sandbox level", workspace.challenge.sandbox.level),
            ],
            accepted_risks=queries.accepted_risks(ledger),
            public=workspace.public_board(ledger) if board.public_phase else None,
            analysis=workspace.analysis(ledger, board.phase) if analysis and board.rows else None,
            hindsight=hindsight(workspace.challenge, ledger, board.phase, queries.last_event_time(ledger)),
            review=_review(workspace, ledger, board.phase),
            machine_bill=_machine_bill(workspace, ledger),
        )
    target = output or workspace.challenge.folder / "report.html"
    target.write_text(render_report(data), encoding="utf-8")
    screen.say(f"Wrote {target}.")


def _machine_bill(workspace: Workspace, ledger: Ledger) -> MachineBill | None:
    from referee.report.machine_bill import machine_bill  # noqa: PLC0415 - with the report

    if workspace.challenge.engine.aws is None:
        return None
    lives = noted_lives(workspace.objects, workspace.challenge.engine.name)
    return machine_bill(lives, queries.attempts(ledger), markets(workspace.challenge.machines))


def _review(workspace: Workspace, ledger: Ledger, phase: str) -> Review:
    from referee.report.review import review  # noqa: PLC0415 - with the report

    public = None
    if any(one.visibility == "public" for one in workspace.challenge.phases.values()):
        public = reproduction_phase(workspace.challenge)
    found = standing(ledger, public) if public else ()
    return review(phase, public, found, queries.rejudgings(ledger), queries.confirmations(ledger, phase))


def _named(ledger: Ledger, board: Leaderboard, command: str) -> Leaderboard:
    ledger.append([IdentitiesUnblinded(command=f"{command} --phase {board.phase} --unblind")])
    names = queries.names(ledger, board.submissions)
    return unblinded(board, {blind: (who.submission_name, who.team_name) for blind, who in names.items()})


def _print_board(board: Leaderboard) -> None:
    columns = ["rank>", "submission", "team", f"{board.metric}>", *(f"{name}>" for name in board.secondary)]
    if board.public_phase:
        columns += [f"{board.public_phase}>", "rank there>"]
    rows = []
    line = board.reference
    for row in board.rows:
        if line is not None and line.rank <= row.rank and row.score != line.score:
            rows.append(_reference_cells(line.score, len(columns)))
            line = None
        cells = [
            str(row.rank),
            *_who(row),
            *("" if value is None else f"{value:.5f}" for value in (row.score, *row.secondary)),
        ]
        if board.public_phase:
            cells += ["" if row.public_score is None else f"{row.public_score:.5f}", str(row.public_rank or "")]
        rows.append(tuple(cells))
    if line is not None:
        rows.append(_reference_cells(line.score, len(columns)))
    direction = "greater is better" if board.greater_is_better else "smaller is better"
    screen.print_table(columns, rows, title=f"{board.phase}, {board.metric} ({direction})")
    if board.unscored:
        screen.say()
        screen.print_table(
            ["without a score", "team", "verdict", "blame", "reason"],
            [(*_who(left), left.verdict or "", left.blame, left.reason) for left in board.unscored],
        )
    if board.ruled:
        screen.say()
        screen.print_table(
            ["taken off the board", "team", "ruling", f"{board.metric}>", "reason"],
            [
                (
                    *_who(off),
                    PAST[off.ruling],
                    "" if off.score is None else f"{off.score:.5f}",
                    off.reason,
                )
                for off in board.ruled
            ],
        )
    if not board.complete:
        screen.say("This board is not complete: some evaluations have not ended or were not scored.")


def _who(entry: Row | Unscored | Ruled) -> tuple[str, str]:
    """Submission and team, with their names on an unblinded board."""
    if entry.name is None:
        return entry.submission, entry.team
    return f"{entry.submission} ({entry.name})", f"{entry.team} ({entry.team_name})"


def _reference_cells(score: float, width: int) -> tuple[str, ...]:
    return ("", "constant 0.5", "", f"{score:.5f}", *[""] * (width - 4))
