"""`referee rejudge …`: judge a set of evaluations again in stages; nothing published changes before it is applied."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from referee.challenge import Limits
from referee.cli import screen
from referee.cli.app import HERE, INTERRUPTED, AsJson, Folder, app
from referee.cli.campaigns import Yes, confirm_further_runs, evaluate, refuse_unfit_host
from referee.cli.gate import refuse_sealed
from referee.errors import CheckFailedError, ConfigurationError
from referee.ledger import Ledger, queries
from referee.ledger.queries import RejudgingRow
from referee.rejudgings import Preview, apply, cancel, preview, score_staged, stage, staged_rejudging
from referee.scoring.rejudging import Change, Selection, board_digest
from referee.units import parse_duration, parse_size
from referee.verdicts import Verdict
from referee.workspace import Workspace

rejudge_app = App(
    name="rejudge", help="Judge a set of evaluations again: stage, look at every change, apply or cancel."
)
app.command(rejudge_app)


@rejudge_app.command(name="stage")
def stage_rejudging(
    *,
    phase: Annotated[str | None, Parameter(help="Which phase; by default the private one that was run.")] = None,
    rerun: Annotated[bool, Parameter(negative="", help="Make new attempts, under today's limits.")] = False,
    rescore: Annotated[
        bool, Parameter(negative="", help="Score again, by the labels and metrics that challenge.toml names now.")
    ] = False,
    everything: Annotated[bool, Parameter(name="--all", negative="", help="Every evaluation that has ended.")] = False,
    verdict: Annotated[tuple[Verdict, ...], Parameter(negative="", help="Only those that ended so.")] = (),
    machine_type: Annotated[tuple[str, ...], Parameter(negative="", help="Only those that ran there.")] = (),
    submission: Annotated[tuple[str, ...], Parameter(negative="", help="Only those of this blind id.")] = (),
    wall_time: Annotated[str | None, Parameter(help="Another limit for the new attempts, such as 40s or 2h.")] = None,
    memory: Annotated[str | None, Parameter(help="Another limit for the new attempts, such as 2GiB.")] = None,
    yes: Yes = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> int:
    """Choose what is judged again, and do it without touching anything that stands; then print what would change.

    Several conditions are combined: each must fit. The same kind of condition may be given several times.
    """
    workspace = Workspace.open(challenge)
    selection = Selection(frozenset(verdict), frozenset(machine_type), frozenset(submission))
    if everything == (selection != Selection()):
        raise ConfigurationError(
            "It must be said what is judged again: either --all, or conditions.",
            hint="Conditions are --verdict, --machine-type and --submission.",
        )
    method = _method(rerun=rerun, rescore=rescore, limits=wall_time or memory)
    with workspace.ledger() as ledger:
        name = workspace.phase_or_default(ledger, phase)
        refuse_sealed(ledger, name)
        _refuse_unknown(ledger, selection)
        limits = None if method == "rescore" else _limits(workspace.challenge.limits, wall_time, memory)
        if limits is not None:
            refuse_unfit_host(workspace)
        row = stage(workspace, ledger, name, selection, limits=limits)
    screen.note(
        f"{row.rejudging}: {len(row.submissions)} evaluations on {row.phase} are judged again ({row.selection})."
    )
    return _go_on(workspace, yes=yes, json=json)


def _method(*, rerun: bool, rescore: bool, limits: str | None) -> Literal["rerun", "rescore"]:
    if rerun == rescore:
        raise ConfigurationError("Say either --rerun or --rescore.", hint="--rerun makes new attempts; --rescore none.")
    if rescore and limits:
        raise ConfigurationError("--wall-time and --memory are for new attempts.", hint="Use them with --rerun.")
    return "rerun" if rerun else "rescore"


def _limits(today: Limits, wall_time: str | None, memory: str | None) -> Limits:
    changes: dict[str, object] = {}
    try:
        if wall_time:
            changes["wall_time"] = parse_duration(wall_time)
        if memory:
            changes["memory"] = parse_size(memory)
    except ValueError as error:
        raise ConfigurationError(f"{error}.", hint="Write 40s, 30m or 2h; 512MiB or 2GiB.") from error
    return today.model_copy(update=changes)


def _refuse_unknown(ledger: Ledger, selection: Selection) -> None:
    known = {row.submission for row in queries.submissions(ledger)}
    if unknown := sorted(selection.submissions - known):
        raise ConfigurationError(
            f"There is no submission {unknown[0]!r}.", hint="`referee submissions list` shows the blind ids."
        )


@rejudge_app.command(name="run")
def run_rejudging(*, yes: Yes = False, challenge: Folder = HERE, json: AsJson = False) -> int:
    """Go on with the staged rejudging after an interruption: run and score what is left of it."""
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        refuse_sealed(ledger, staged_rejudging(ledger).phase)
    return _go_on(workspace, yes=yes, json=json)


def _go_on(workspace: Workspace, *, yes: bool, json: bool) -> int:
    with workspace.ledger() as ledger:
        row = staged_rejudging(ledger)
        if row.method == "rerun" and preview(workspace, ledger, row).waiting:
            series = next(one for one in queries.series(ledger) if one.series == row.rejudging)
            confirm_further_runs(workspace.challenge, ledger, [series], yes)
            with ledger.lead() as lease:
                campaign = evaluate(workspace, ledger, lease, row.phase, series=series)
            status = queries.status(ledger, row.phase, row.rejudging)
            if status.done < status.total:
                screen.note(
                    f"{status.done} of {status.total} further runs have ended. {campaign.stopped_because}".strip()
                )
                screen.note("Go on with: referee rejudge run")
                return INTERRUPTED
        refused = score_staged(workspace, ledger, row).refused
        _show(workspace, ledger, row, json=json)
    if refused:
        raise CheckFailedError(
            "Valid results could not be scored again: " + "; ".join(f"{r.evaluation}: {r.reason}" for r in refused),
            hint="Nothing that stands is affected. Cancel the rejudging, or find these results in the object store.",
        )
    return 0


@rejudge_app.command(name="show")
def show_rejudging(*, challenge: Folder = HERE, json: AsJson = False) -> None:
    """Print every verdict, score and rank that the staged rejudging would change."""
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        row = staged_rejudging(ledger)
        refuse_sealed(ledger, row.phase)
        _show(workspace, ledger, row, json=json)


def _show(workspace: Workspace, ledger: Ledger, row: RejudgingRow, *, json: bool) -> None:
    seen = preview(workspace, ledger, row)
    if json:
        screen.print_json(_document(row, seen))
        return
    _print_changes(row, seen)
    if seen.waiting:
        screen.say(f"Not ended yet: {', '.join(seen.waiting)}. Go on with: referee rejudge run")
        return
    screen.say("Nothing that is published has changed.")
    screen.say("Next: referee rejudge apply --reason TEXT, or referee rejudge cancel")


def _document(row: RejudgingRow, seen: Preview) -> dict[str, object]:
    return {
        "rejudging": row.rejudging,
        "phase": row.phase,
        "method": row.method,
        "selection": row.selection,
        "submissions": row.submissions,
        "waiting": seen.waiting,
        "kept": {run.submission: run.verdict for run in seen.kept},
        "unscored": seen.unscored,
        "before": board_digest(seen.before),
        "after": board_digest(seen.after),
        "changes": [
            {
                "submission": change.submission,
                "team": change.team,
                "verdict": [change.old_verdict, change.new_verdict],
                "score": [change.old_score, change.new_score],
                "rank": [change.old_rank, change.new_rank],
                "moved": change.moved,
            }
            for change in seen.changes
        ],
    }


def _print_changes(row: RejudgingRow, seen: Preview) -> None:
    if seen.changes:
        screen.print_table(
            [
                "submission",
                "team",
                "verdict",
                f"{seen.before.metric}>",
                "",
                f"{seen.after.metric}>",
                "rank>",
                "",
                "rank>",
                "moves",
            ],
            [_cells(change) for change in seen.changes],
            title=f"{row.rejudging}: what would change on {row.phase} (old, new)",
        )
    else:
        screen.say(f"{row.rejudging}: no verdict, score or rank on {row.phase} would change.")
    for run in seen.kept:
        screen.say(
            f"{run.submission} keeps its result: its further run ended as {run.verdict}, by no doing of its own."
        )


def _cells(change: Change) -> tuple[str, ...]:
    old, new = str(change.old_verdict or "-"), str(change.new_verdict or "-")
    moved = change.moved
    if change.old_rank is None:
        moves = "comes onto the board"
    elif change.new_rank is None:
        moves = "leaves the board"
    else:
        moves = "=" if not moved else f"{'up' if moved > 0 else 'down'} {abs(moved)}"
    return (
        change.submission,
        change.team,
        old if old == new else f"{old} -> {new}",
        _score(change.old_score),
        "->",
        _score(change.new_score),
        str(change.old_rank or "-"),
        "->",
        str(change.new_rank or "-"),
        moves,
    )


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


@rejudge_app.command(name="apply")
def apply_rejudging(
    *,
    reason: Annotated[str, Parameter(help="Why; kept in the ledger and shown in the report.")],
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Let what is staged stand: scores and ranks change exactly as `referee rejudge show` says."""
    if not reason.strip():
        raise ConfigurationError(
            "Applying a rejudging needs a reason.", hint='Give one: --reason "two labels were wrong".'
        )
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        row = staged_rejudging(ledger)
        refuse_sealed(ledger, row.phase)
        if row.method == "rerun":
            # While a controller makes the further runs nothing is settled.
            with ledger.lead():
                seen = apply(workspace, ledger, row, reason.strip())
        else:
            seen = apply(workspace, ledger, row, reason.strip())
    if json:
        screen.print_json(_document(row, seen))
        return
    _print_changes(row, seen)
    screen.say(f"{row.rejudging} is applied. A report or an export that was made before is out of date.")


@rejudge_app.command(name="cancel")
def cancel_rejudging(*, reason: str = "", challenge: Folder = HERE) -> None:
    """Leave aside for good what is staged; its runs and scores stay in the ledger and count for nothing.

    Parameters
    ----------
    reason
        Why; kept in the ledger.
    """
    with Workspace.open(challenge).ledger() as ledger:
        row = staged_rejudging(ledger)
        if row.method == "rerun":
            with ledger.lead():
                cancel(ledger, row, reason)
        else:
            cancel(ledger, row, reason)
    screen.say(f"{row.rejudging} is cancelled; nothing has changed.")


@rejudge_app.command(name="list")
def list_rejudgings(*, challenge: Folder = HERE, json: AsJson = False) -> None:
    """List every rejudging there was, with the digests of the board before and after."""
    with Workspace.open(challenge).ledger() as ledger:
        rows = queries.rejudgings(ledger)
    if json:
        screen.print_json(
            [
                {
                    "rejudging": row.rejudging,
                    "phase": row.phase,
                    "method": row.method,
                    "selection": row.selection,
                    "submissions": row.submissions,
                    "state": row.state,
                    "reason": row.reason,
                    "before": row.before,
                    "after": row.after,
                    "staged_at": row.staged_at.isoformat(),
                    "closed_at": row.closed_at.isoformat() if row.closed_at else None,
                }
                for row in rows
            ]
        )
        return
    if not rows:
        screen.say("There were no rejudgings.")
        return
    screen.print_table(
        ["rejudging", "phase", "method", "of", "evaluations>", "state", "reason"],
        [
            (
                row.rejudging,
                row.phase,
                row.method,
                row.selection,
                str(len(row.submissions)),
                row.state,
                row.reason,
            )
            for row in rows
        ],
    )
