"""`referee status`, `referee show` and `referee logs`: what is known, while a campaign runs and afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from referee.attempts import Measurements
from referee.challenge import Limits
from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, app
from referee.errors import ConfigurationError
from referee.ledger import Ledger, queries
from referee.rulings import PAST
from referee.units import format_duration, format_size
from referee.verdicts import MEANINGS, Verdict
from referee.workspace import Workspace

if TYPE_CHECKING:
    from referee.prospects.outlook import Outlook


@app.command
def status(*, phase: str | None = None, challenge: Folder = HERE, json: AsJson = False) -> None:
    """How far the campaign is: done, running, waiting, the verdicts so far, and when it will end at what cost.

    Parameters
    ----------
    phase
        Only this phase; otherwise all of them together, and each.
    """
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        recorded = queries.phases(ledger)
        names = [phase] if phase else list(recorded)
        if phase:
            workspace.challenge.phase(phase)
        each = {name: queries.status(ledger, name) for name in names}
        stopped = queries.dispatch_stopped(ledger)
        quarantined = [row for row in queries.nodes(ledger) if row.quarantined]
        imported = len(queries.submissions(ledger))
        sealed = [name for name, row in queries.seals(ledger).items() if row.sealed]
        outlooks = _outlooks(workspace, ledger, [name for name, s in each.items() if 0 < s.done < s.total])
        if json:
            screen.print_json(
                _as_json(_sum(each.values()))
                | {
                    "phases": {name: _as_json(each[name]) for name in names},
                    "forecasts": {name: seen.as_json() for name, seen in outlooks.items()},
                    "submissions": imported,
                    "dispatch_stopped": stopped,
                    "quarantined": {row.node: row.reason for row in quarantined},
                    "accepted_risks": queries.accepted_risks(ledger),
                    "sealed": sealed,
                }
            )
            return
        screen.say(f"{imported} submissions. Last event {_ago(queries.last_event_time(ledger))} ago.")
        screen.print_table(
            ["phase", "total>", "done>", "running>", "waiting>", "verdicts"],
            [
                (
                    name,
                    *(str(number) for number in (s.total, s.done, s.running, s.waiting)),
                    ", ".join(f"{count} {verdict}" for verdict, count in s.verdicts.items()),
                )
                for name, s in each.items()
            ],
        )
        for attempt in queries.open_attempts(ledger, phase):
            screen.say(f"running: {attempt.attempt} on {attempt.machine_type} for {_ago(attempt.planned_at)}")
        for name in sealed:
            screen.say(f"Scores on {name} are sealed: nobody sees them before `referee unseal`.")
        for seen in outlooks.values():
            for line in seen.sentences():
                screen.say(line)
        _say_exceptions(ledger, names)
        if stopped:
            screen.say(f"Dispatch is stopped: {stopped} `referee resume` lets it go on.")
        for row in quarantined:
            screen.say(f"Quarantined: {row.node}. {row.reason} `referee resume` takes it back.")


def _outlooks(workspace: Workspace, ledger: Ledger, phases: Iterable[str]) -> dict[str, Outlook]:
    """The forecast of each phase of which enough has ended to say something."""
    names = list(phases)
    if not names:
        return {}
    from referee.prospects.outlook import outlook  # noqa: PLC0415 - brings scipy, which a finished phase needs not

    now = datetime.now(UTC)
    found = {name: outlook(workspace.challenge, ledger, name, now) for name in names}
    return {name: seen for name, seen in found.items() if seen is not None}


def _say_exceptions(ledger: Ledger, phases: Sequence[str]) -> None:
    for rejudging in queries.rejudgings(ledger):
        if rejudging.state == "staged":
            many = f"{len(rejudging.submissions)} evaluations on {rejudging.phase}"
            screen.say(f"Staged: {rejudging.rejudging} of {many}; see `referee rejudge show`.")
    for phase in phases:
        if held := queries.held(ledger, phase):
            screen.say(f"Not run on {phase}, because they did not reproduce: {', '.join(sorted(held))}.")


def _sum(each: Iterable[queries.Status]) -> queries.Status:
    parts = list(each)
    verdicts = Counter[Verdict]()
    for part in parts:
        verdicts.update(part.verdicts)
    return queries.Status(
        sum(p.total for p in parts),
        sum(p.done for p in parts),
        sum(p.running for p in parts),
        sum(p.waiting for p in parts),
        {verdict: verdicts[verdict] for verdict in Verdict if verdict in verdicts},
    )


def _as_json(status: queries.Status) -> dict[str, object]:
    return {
        "total": status.total,
        "done": status.done,
        "running": status.running,
        "waiting": status.waiting,
        "verdicts": {str(verdict): count for verdict, count in status.verdicts.items()},
    }


def _ago(moment: datetime) -> str:
    return format_duration((datetime.now(UTC) - moment).total_seconds())


@app.command
def show(submission: str, *, challenge: Folder = HERE, json: AsJson = False) -> None:
    """Everything that is known of one submission: evaluations, attempts, measurements, what its team is told.

    Parameters
    ----------
    submission
        The blind id, as in `referee leaderboard`.
    """
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        found = {row.submission: row for row in queries.submissions(ledger)}
        refused = next((row for row in queries.refusals(ledger) if row.submission == submission), None)
        if refused is not None and submission not in found:
            _print_refused(refused, json=json)
            return
        if submission not in found:
            raise ConfigurationError(
                f"There is no submission {submission!r}.", hint="`referee submissions list` shows them all."
            )
        evaluations = [row for row in queries.evaluations(ledger, series=None) if row.submission == submission]
        rulings = [row for row in queries.rulings(ledger) if row.submission == submission]
        attempts = {row.evaluation: queries.attempts(ledger, evaluation=row.evaluation) for row in evaluations}
    if json:
        screen.print_json(
            TypeAdapter(dict[str, Any]).dump_python(
                {
                    "submission": asdict(found[submission]),
                    "evaluations": [
                        asdict(row) | {"attempts": [_attempt_json(a) for a in attempts[row.evaluation]]}
                        for row in evaluations
                    ],
                    "rulings": [
                        {"ruling": row.ruling, "reason": row.reason, "ruled_at": row.ruled_at} for row in rulings
                    ],
                },
                mode="json",
            )
        )
        return
    row = found[submission]
    screen.say(f"{row.submission} of team {row.team}, {row.kind}, image {row.image}")
    for ruling in rulings:
        screen.say(f"{PAST[ruling.ruling].capitalize()} on {ruling.ruled_at:%Y-%m-%d}: {ruling.reason}")
    for evaluation in evaluations:
        screen.say()
        what = f"{evaluation.phase}, further run {evaluation.series}" if evaluation.series else evaluation.phase
        screen.say(f"{what}: {evaluation.verdict or 'not ended'}. {evaluation.reason}")
        if evaluation.attempt and evaluation.attempt not in {a.attempt for a in attempts[evaluation.evaluation]}:
            screen.say(f"It rests on the attempt {evaluation.attempt}.")
        if evaluation.verdict and not evaluation.series:
            screen.say(f"The team is told: {MEANINGS[evaluation.verdict].participant}")
        screen.print_table(
            ["attempt", "verdict", "machine", "wall>", "CPU>", "memory>", "nearest limit", "detail"],
            [_attempt_cells(attempt) for attempt in attempts[evaluation.evaluation]],
        )


def _print_refused(row: queries.RefusalRow, *, json: bool) -> None:
    if json:
        screen.print_json({"submission": {"submission": row.submission, "team": row.team}, "refused": row.reason})
        return
    screen.say(f"{row.submission} of team {row.team} was refused at import: {row.reason}")
    screen.say("It was never run. Import a mended image with `referee submissions import`.")


def _attempt_cells(attempt: queries.AttemptRow) -> tuple[str, ...]:
    measured = attempt.measurements
    return (
        attempt.attempt,
        str(attempt.verdict or "open"),
        attempt.machine_type,
        format_duration(measured.wall_seconds) if measured else "",
        format_duration(measured.cpu_seconds) if measured else "",
        format_size(measured.peak_memory_bytes) if measured else "",
        nearest_limit(measured) if measured else "",
        attempt.detail or attempt.signature or "",
    )


def nearest_limit(measured: Measurements) -> str:
    """The limit of which the largest share was used, and that share."""
    if measured.nearest_limit is None or measured.nearest_limit_share is None:
        return ""
    return f"{measured.nearest_limit} {measured.nearest_limit_share:.0%}"


def _attempt_json(attempt: queries.AttemptRow) -> dict[str, Any]:
    secret = {"result_key"}
    return {name: value for name, value in asdict(attempt).items() if name not in secret} | {
        "measurements": attempt.measurements.model_dump() if attempt.measurements else None
    }


@app.command
def logs(attempt: str, *, challenge: Folder = HERE) -> None:
    """Print what an attempt wrote to its standard output and error, with control characters escaped.

    Parameters
    ----------
    attempt
        The attempt's name (see `referee show`), or an evaluation's: then its last attempt.
    """
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        rows = [row for row in queries.attempts(ledger) if attempt in {row.attempt, row.evaluation}]
    if not rows:
        raise ConfigurationError(f"There is no attempt {attempt!r}.", hint="`referee show SUBMISSION` names them.")
    text = workspace.objects.get(f"results/{rows[-1].result_key}/log.txt").decode("utf-8", "backslashreplace")
    screen.say(text)


def measured_table(measured: Measurements, limits: Limits) -> None:
    """Print what was measured beside the limits, and which limit was nearest."""
    rows = [
        ("wall time", format_duration(measured.wall_seconds), format_duration(limits.wall_time)),
        ("memory, peak", format_size(measured.peak_memory_bytes), format_size(limits.memory)),
        ("CPU time", format_duration(measured.cpu_seconds), f"{limits.cpus:g} CPUs"),
        ("processes, peak", "" if measured.pids_peak is None else str(measured.pids_peak), str(limits.pids)),
        ("output", format_size(measured.output_bytes), format_size(limits.output)),
        ("log", format_size(measured.log_bytes), f"{format_size(limits.log)} kept"),
    ]
    screen.print_table(["measured", "used>", "limit>"], rows)
    if nearest := nearest_limit(measured):
        screen.say(f"Nearest limit: {nearest} of it used.")
