"""`referee reproduce` and `referee confirm`: do runs give again what was recorded, and what stands?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import TypeAdapter

from referee.cli import screen
from referee.cli.app import HERE, INTERRUPTED, AsJson, Folder, app
from referee.cli.campaigns import Yes, confirm_further_runs, evaluate, refuse_unfit_host
from referee.cli.gate import refuse_sealed
from referee.confirmations import begin, conclude, score_series
from referee.errors import CheckFailedError, ConfigurationError
from referee.ledger import ConfirmationRecorded, Ledger, queries
from referee.ledger.queries import SeriesRow
from referee.reproductions import check, record, recorded_facts, reproduction_phase, second_run
from referee.scoring.confirmation import machines_in_words
from referee.scoring.reproduction import Outcome, Reproduction, SuccessRate, in_sentences, success_rate
from referee.workspace import Workspace


@app.command
def reproduce(
    *,
    phase: Annotated[
        str | None, Parameter(help="Which public phase; by default the declared one, or the last in the file.")
    ] = None,
    recorded: Annotated[
        Path | None,
        Parameter(help="CSV of recorded scores (submission,score[,hardware]); by default those of the manifest."),
    ] = None,
    predictions: Annotated[
        Path | None, Parameter(help="Folder of recorded prediction files, NAME.csv or BLIND-ID.csv.")
    ] = None,
    again: Annotated[
        bool, Parameter(negative="", help="Run what did not reproduce exactly once more, to tell chance from change.")
    ] = False,
    yes: Yes = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> int:
    """Compare what was evaluated on a public phase with what was recorded there, and say for each submission why not.

    The first valid attempt counts, never the best. What came of it is recorded in the ledger.
    """
    workspace = Workspace.open(challenge)
    name = reproduction_phase(workspace.challenge, phase)
    with workspace.ledger() as ledger:
        refuse_sealed(ledger, name)
        scores, files = recorded_facts(ledger, recorded, predictions)
        found = check(workspace, ledger, name, scores, files)
        if again and (series := second_run(ledger, name, found)) is not None:
            confirm_further_runs(workspace.challenge, ledger, [series], yes)
            if not _run_series(workspace, ledger, series):
                screen.note("Go on with: referee reproduce --again")
                return INTERRUPTED
            found = check(workspace, ledger, name, scores, files)
        record(workspace, ledger, name, found)
        waiting = sum(row.verdict is None for row in queries.evaluations(ledger, name))
    rate = success_rate(found)
    if json:
        screen.print_json({"phase": name, "waiting": waiting} | _document(found, rate))
        return 0
    _print_found(name, found)
    for line in in_sentences(rate):
        screen.say(line)
    if waiting:
        screen.say(f"{waiting} evaluations on {name} have not ended and were not compared.")
    return 0


def _run_series(workspace: Workspace, ledger: Ledger, series: SeriesRow) -> bool:
    """Make the runs of a series that are left; whether all have ended."""
    refuse_unfit_host(workspace)
    with ledger.lead() as lease:
        campaign = evaluate(workspace, ledger, lease, series.phase, series=series)
    status = queries.status(ledger, series.phase, series.series)
    if status.done < len(series.submissions):
        screen.note(f"{status.done} of {len(series.submissions)} further runs have ended. {campaign.stopped_because}")
        return False
    return True


def _document(found: tuple[Reproduction, ...], rate: SuccessRate) -> dict[str, Any]:
    return {
        "rate": TypeAdapter(SuccessRate).dump_python(rate, mode="json"),
        "submissions": TypeAdapter(tuple[Reproduction, ...]).dump_python(found, mode="json"),
    }


def _print_found(phase: str, found: tuple[Reproduction, ...]) -> None:
    order = [Outcome.DIFFERENT, Outcome.FAILED, Outcome.NOTHING_RECORDED, Outcome.WITHIN_TOLERANCE, Outcome.EXACT]
    several = any(one.run_to_run is not None for one in found)
    screen.print_table(
        [
            "submission",
            "outcome",
            "recorded>",
            "re-run>",
            "difference>",
            *(["run to run>"] if several else []),
            "likely cause",
            "what is known",
        ],
        [
            (
                one.submission,
                one.outcome.replace("_", " "),
                "" if one.recorded_score is None else f"{one.recorded_score:.5f}",
                "" if one.rerun_score is None else f"{one.rerun_score:.5f}",
                "" if one.difference is None else f"{one.difference:+.2g}",
                *([] if not several else ["" if one.run_to_run is None else f"{one.run_to_run:.2g}"]),
                one.cause.replace("_", " ").replace("none", ""),
                one.explanation,
            )
            for one in sorted(found, key=lambda one: (order.index(one.outcome), one.submission))
        ],
        title=f"{phase}: re-runs against what was recorded",
    )
    if several:
        screen.say(
            "run to run: the largest change of a prediction between valid runs of one image, where there are several."
        )


@app.command
def confirm(
    *,
    top: Annotated[int, Parameter(help="Ranks up to this one are run again.")],
    phase: Annotated[str | None, Parameter(help="Which phase; by default the private one that was run.")] = None,
    runs: Annotated[int, Parameter(help="How often.")] = 3,
    machine_type: Annotated[
        str | None, Parameter(help="The one machine type; by default that on which the winner ran.")
    ] = None,
    yes: Yes = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> int:
    """Run the prize zone again on one machine type, and compare predictions, scores and ranks with what stands.

    Each run asks for a machine that has not run the submission yet; where there is none, the result says so.
    What comes of it is recorded; no score and no rank changes by it. The exit status is 1 where a run differs.
    """
    if top < 1 or runs < 1:
        raise ConfigurationError("--top and --runs are at least 1.", hint="For example --top 3.")
    workspace = Workspace.open(challenge)
    if machine_type is not None and workspace.challenge.machines and machine_type not in workspace.challenge.machines:
        raise ConfigurationError(
            f"There is no machine type {machine_type!r}.",
            hint=f"Choose one of: {', '.join(workspace.challenge.machines)}.",
        )
    with workspace.ledger() as ledger:
        name = workspace.phase_or_default(ledger, phase)
        refuse_sealed(ledger, name)
        all_series = begin(workspace, ledger, name, top=top, runs=runs, machine_type=machine_type)
        confirm_further_runs(workspace.challenge, ledger, all_series, yes)
        for series in all_series:
            if not _run_series(workspace, ledger, series):
                screen.note(f"Go on with: referee confirm --top {top}")
                return INTERRUPTED
            if refused := score_series(workspace, ledger, series).refused:
                raise CheckFailedError(
                    "Further runs could not be scored: " + "; ".join(f"{r.evaluation}: {r.reason}" for r in refused),
                    hint="Find out what happened to these results in the object store, then run this again.",
                )
        event = conclude(workspace, ledger, name, all_series, top)
        board = workspace.board(ledger, name)
    if json:
        screen.print_json(event.payload() | {"confirmed": _confirmed(event)})
    else:
        _print_confirmation(event, {row.submission: (row.rank, row.score) for row in board.rows})
    return 0 if _confirmed(event) else CheckFailedError.exit_code


def _confirmed(event: ConfirmationRecorded) -> bool:
    return all(run.same_predictions for run in event.runs)


def _print_confirmation(event: ConfirmationRecorded, board: dict[str, tuple[int, float]]) -> None:
    screen.print_table(
        ["submission", "rank>", "score>", "run", "verdict", "ran on", "stands from", "predictions", "score>", "rank>"],
        [
            (
                run.submission,
                *(
                    (str(board[run.submission][0]), f"{board[run.submission][1]:.5f}")
                    if run.submission in board
                    else ("", "")
                ),
                run.series,
                run.verdict,
                run.node or "",
                run.official_node or "",
                {True: "the very same", False: "different", None: "none"}[run.same_predictions],
                "" if run.score is None else f"{float(run.score):.5f}",
                "" if run.rank is None else str(run.rank),
            )
            for run in event.runs
        ],
        title=f"{event.phase}: ranks 1 to {event.top}, run again on {event.machine_type}",
    )
    same = sum(bool(run.same_predictions) for run in event.runs)
    screen.say(f"{same} of {len(event.runs)} further runs gave the very same predictions. No score was changed.")
    for line in machines_in_words(event):
        screen.say(line)
