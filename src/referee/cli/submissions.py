"""`referee submissions …`: import them, list them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from referee.challenge import Challenge
from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, Unblind, app
from referee.enrolment import Enrolled, Enrolment
from referee.errors import CheckFailedError, ConfigurationError
from referee.kaggle import Kaggleboard, listed, match, read_leaderboard
from referee.ledger import IdentitiesUnblinded, Ledger, queries
from referee.publication import record_public_board
from referee.scoring.metric import chosen_metrics
from referee.submissions import BlindKey, ManifestRow, read_manifest, single_submission
from referee.units import format_size
from referee.workspace import Workspace

submissions_app = App(name="submissions", help="Import submissions, and list them.")
app.command(submissions_app)


@submissions_app.command(name="import")
def import_submissions(
    source: str,
    *,
    submission: Annotated[str | None, Parameter(help="A single image's name; by default the image's own.")] = None,
    team: Annotated[str | None, Parameter(help="A single image's team.")] = None,
    kind: Annotated[Literal["cpu", "gpu"], Parameter(help="A single image's kind.")] = "cpu",
    kaggle_leaderboard: Annotated[
        Path | None, Parameter(help="Kaggle's public leaderboard as CSV: its scores and ranks are recorded.")
    ] = None,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Import a manifest of submissions, or a single image. Resumable; what is there already stays as it is.

    Parameters
    ----------
    source
        A CSV manifest (submission,team,image,kind[,public_score][,public_runtime_seconds]), or an OCI archive, a docker
        archive, an OCI layout folder, or an image name.
    """
    workspace = Workspace.open(challenge)
    rows = _rows(workspace.challenge, source, submission, team, kind)
    # Read before anything is imported, so that a wrong file is found at once.
    board = None
    if kaggle_leaderboard is not None:
        greater = chosen_metrics(workspace.challenge.metric)[0].greater_is_better
        board = read_leaderboard(kaggle_leaderboard, greater_is_better=greater)
    with workspace.ledger_or_new() as ledger:
        enrolment = Enrolment(
            ledger, workspace.images, BlindKey.open(workspace.state / "blind.key"), workspace.challenge.contract
        )
        with Progress(
            TextColumn("Importing images"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=screen.err,
            transient=True,
        ) as progress:
            task = progress.add_task("import", total=len(rows))
            results = enrolment.enrol(rows, on_done=lambda _: progress.advance(task))
        if board is not None:
            _record_public_board(ledger, board, results)
    results.sort(key=lambda result: result.row.row)
    if json:
        screen.print_json([_as_json(result) for result in results])
    else:
        _print(results)
    refused = [result for result in results if result.error]
    if refused:
        raise CheckFailedError(
            f"{len(refused)} of {len(results)} images were refused; all others are imported.",
            hint="Mend them and import the same manifest again: only what is missing is imported.",
        )


def _rows(
    challenge: Challenge, source: str, submission: str | None, team: str | None, kind: Literal["cpu", "gpu"]
) -> tuple[ManifestRow, ...]:
    if source.endswith(".csv"):
        if submission or team:
            raise ConfigurationError(
                "--submission and --team are for a single image.", hint="A manifest names them in its own columns."
            )
        return read_manifest(Path(source), challenge.finals_per_team)
    return (single_submission(source, Path.cwd(), submission=submission, team=team, kind=kind),)


def _record_public_board(ledger: Ledger, board: Kaggleboard, results: list[Enrolled]) -> None:
    imported = [result for result in results if not result.error]
    found = match(board, [(r.row.submission, r.row.team, r.row.public_score) for r in imported])
    blind = {result.row.submission: result.submission for result in imported}
    record_public_board(ledger, board, {blind[name]: standing for name, standing in found.standings.items()})
    screen.note(f"Kaggle's leaderboard of {board.teams} teams: {len(found.standings)} public scores recorded.")
    if found.several:
        screen.note(
            f"Of {len(found.several)} teams it is not told which submission their score is of; "
            f"a public_score in the manifest tells it: {listed(found.several)}."
        )
    if found.missing:
        screen.note(f"{len(found.missing)} teams are not on it: {listed(found.missing)}.")


def _as_json(result: Enrolled) -> dict[str, object]:
    return {
        "submission": result.submission,
        "kind": result.row.kind,
        "image": result.record.digest if result.record else None,
        "same_image_as": result.same_image_as,
        "findings": result.findings,
        "state": "refused" if result.error else "imported" if result.record else "already there",
        "error": str(result.error) if result.error else None,
    }


def _print(results: list[Enrolled]) -> None:
    imported = [result for result in results if result.record]
    there = [result for result in results if not result.record and not result.error]
    screen.say(f"{len(imported)} submissions imported, {len(there)} were there already.")
    for result in imported:
        if result.same_image_as:
            screen.say(f"{result.submission} is the very same image as {result.same_image_as}.")
    noticed: dict[str, list[str]] = {}
    for result in imported:
        for finding in result.findings:
            noticed.setdefault(finding, []).append(result.submission)
    for finding, those in noticed.items():
        screen.say(f"{', '.join(those[:3])}{f' and {len(those) - 3} more' if len(those) > 3 else ''}: {finding}")
    for result in results:
        if result.error:
            screen.print_error(result.error, prefix=f"{result.submission} (row {result.row.row})")


@submissions_app.command(name="list")
def list_submissions(*, challenge: Folder = HERE, unblind: Unblind = False, json: AsJson = False) -> None:
    """List the submissions under their blind ids."""
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        rows = queries.submissions(ledger)
        ranks = queries.public_ranks(ledger)
        names = {}
        if unblind:
            ledger.append([IdentitiesUnblinded(command="submissions list --unblind")])
            names = queries.names(ledger, [row.submission for row in rows])
    images = {record.digest: record for record in workspace.images.records()}
    if json:
        screen.print_json(
            [
                {
                    "submission": row.submission,
                    "team": row.team,
                    "kind": row.kind,
                    "image": row.image,
                    "same_image_as": row.same_image_as,
                    "public_score": row.public_score,
                    "public_rank": ranks.get(row.submission),
                    "public_runtime_seconds": row.public_runtime_seconds,
                }
                | (
                    {"name": names[row.submission].submission_name, "team_name": names[row.submission].team_name}
                    if unblind
                    else {}
                )
                for row in rows
            ]
        )
        return
    scored = any(row.public_score is not None for row in rows)
    screen.print_table(
        ["submission", "team", "kind", "image", "size>", "same image as"]
        + (["public score>", "public rank>"] if scored else [])
        + (["name", "team's name"] if unblind else []),
        [
            (
                row.submission,
                row.team,
                row.kind,
                row.image.removeprefix("sha256:")[:12],
                format_size(images[row.image].unpacked_bytes) if row.image in images else "",
                row.same_image_as or "",
            )
            + (_public_cells(row.public_score, ranks.get(row.submission)) if scored else ())
            + ((names[row.submission].submission_name, names[row.submission].team_name) if unblind else ())
            for row in rows
        ],
    )


def _public_cells(score: float | None, rank: int | None) -> tuple[str, str]:
    return "" if score is None else f"{score:.5f}", "" if rank is None else str(rank)
