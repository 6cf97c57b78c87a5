"""Confirming the prize zone: its runs again, on one machine type, compared with what stands."""

from __future__ import annotations

from referee.errors import ConfigurationError
from referee.freshness import earlier_nodes
from referee.ledger import ConfirmationRecorded, Ledger, SeriesStarted, queries
from referee.ledger.queries import SeriesRow
from referee.phases import record_phase
from referee.scoring.boards import metric_in_force
from referee.scoring.confirmation import confirmed_runs, prize_zone
from referee.scoring.score import Scoring
from referee.workspace import Workspace


def begin(
    workspace: Workspace, ledger: Ledger, phase: str, *, top: int, runs: int, machine_type: str | None
) -> tuple[SeriesRow, ...]:
    """The series of further runs: those of a confirmation that was interrupted, or new ones.

    Args:
        workspace: the challenge.
        ledger: its ledger.
        phase: of which phase.
        top: ranks up to this one are run again.
        runs: how often.
        machine_type: on which machine type; by default on that on which the best one ran.

    Raises:
        ConfigurationError: if nobody is ranked there.
    """
    begun = _unfinished(ledger, phase)
    if begun:
        return begun
    board = workspace.board(ledger, phase)
    zone = prize_zone(board, top)
    if not zone:
        raise ConfigurationError(f"Nobody is ranked on {phase} yet.", hint="`referee run`, then `referee score`.")
    machine = machine_type or _machine_of(ledger, phase, zone[0])
    name = f"confirmation-{1 + len(_all(ledger))}"
    ledger.append(
        [
            SeriesStarted(
                series=f"{name}-{number}",
                purpose="confirmation",
                phase=phase,
                submissions=zone,
                machine_type=machine,
            )
            for number in range(1, runs + 1)
        ]
    )
    return _unfinished(ledger, phase)


def _all(ledger: Ledger) -> set[str]:
    return {one.series.rsplit("-", 1)[0] for one in queries.series(ledger) if one.purpose == "confirmation"}


def _unfinished(ledger: Ledger, phase: str) -> tuple[SeriesRow, ...]:
    done = {one.confirmation for one in queries.confirmations(ledger, phase)}
    return tuple(
        one
        for one in queries.series(ledger)
        if one.purpose == "confirmation" and one.phase == phase and one.series.rsplit("-", 1)[0] not in done
    )


def _machine_of(ledger: Ledger, phase: str, submission: str) -> str:
    rests_on = {row.submission: row.attempt for row in queries.evaluations(ledger, phase)}[submission]
    machines = {row.attempt: row.machine_type for row in queries.attempts(ledger, phase=phase)}
    return machines[str(rests_on)]


def score_series(workspace: Workspace, ledger: Ledger, series: SeriesRow) -> Scoring:
    """Score the further runs of a series as the official results are scored, and record it."""
    scoring = workspace.score_rows(
        ledger,
        series.phase,
        record_phase(workspace.challenge, series.phase),
        evaluations=queries.evaluations(ledger, series.phase, series.series),
        attempts=queries.attempts(ledger, phase=series.phase, series=series.series),
        scores=queries.scores(ledger, series.phase, series=series.series),
        choice=metric_in_force(workspace.challenge, ledger, series.phase),
    )
    ledger.append(scoring.events)
    return scoring


def conclude(
    workspace: Workspace, ledger: Ledger, phase: str, series: tuple[SeriesRow, ...], top: int
) -> ConfirmationRecorded:
    """Compare every further run with the official result, and record what came of it.

    `top` is what is asked for now; a confirmation that was interrupted goes on as it was begun.
    """
    names = [one.series for one in series]
    everything = queries.evaluations(ledger, phase, series=None)
    runs = [row for row in everything if row.series in names]
    attempts = queries.attempts(ledger)
    nodes = {row.attempt: row.node for row in attempts}
    board = workspace.board(ledger, phase)
    again = set(series[0].submissions)
    if again != set(prize_zone(board, top)):
        # Begun for other ranks, or before the board changed: what is recorded is what was run.
        top = max((row.rank for row in board.rows if row.submission in again), default=top)
    event = ConfirmationRecorded(
        confirmation=names[0].rsplit("-", 1)[0],
        phase=phase,
        top=top,
        machine_type=str(series[0].machine_type),
        runs=confirmed_runs(
            board,
            queries.evaluations(ledger, phase),
            runs,
            [row for name in names for row in queries.scores(ledger, phase, series=name)],
            nodes=nodes,
            fresh={
                run.attempt
                for run in runs
                if run.attempt is not None
                and nodes[run.attempt] not in earlier_nodes(run.submission, everything, attempts, before=run.attempt)
            },
        ),
    )
    ledger.append([event])
    return event
