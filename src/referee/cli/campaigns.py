"""`referee run` and `referee resume`: the campaign."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from referee.campaign import Campaign, for_series
from referee.challenge import Challenge
from referee.cli import screen
from referee.cli.app import HERE, INTERRUPTED, Folder, app
from referee.engines import REMOTE, create_engine
from referee.engines.contract import Engine, Hiring, Remote
from referee.errors import ConfigurationError, HostError
from referee.ledger import DispatchResumed, EvaluationReopened, Event, Lease, Ledger, NodeProved, NodeReleased, queries
from referee.orders import Orders
from referee.planning.plan import Plan, read_plan
from referee.reproductions import kept_off
from referee.sandbox import examine_host, prove_host
from referee.units import format_duration, format_size
from referee.verdicts import MEANINGS, Verdict
from referee.workspace import Workspace

Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Confirm what is asked, for scripts.")]


@app.command
def run(
    phase: Annotated[str | None, Parameter(name=["phase", "--phase"])] = None,
    *,
    plan: Annotated[
        Path | None, Parameter(help="Confirm and execute this plan (see `referee plan`); recorded in the ledger.")
    ] = None,
    yes: Yes = False,
    accept_risk: Annotated[
        tuple[str, ...],
        Parameter(
            negative="", help="Do without a promise of the sandbox, by name; recorded, and printed on the board."
        ),
    ] = (),
    challenge: Folder = HERE,
) -> int:
    """Evaluate every submission on a phase. Resumable: what has ended is never run again.

    Ctrl-C once starts nothing more and waits for what runs; twice ends what runs (it is run again next time).

    Parameters
    ----------
    phase
        The phase to evaluate on, as named in challenge.toml; with --plan, by default the plan's.
    """
    workspace = Workspace.open(challenge).accepting(accept_risk)
    read = read_plan(plan) if plan else None
    phase = phase or (read.phase if read else None)
    if phase is None:
        raise ConfigurationError(
            "Which phase?", hint=f"Write --phase with one of: {', '.join(workspace.challenge.phases)}."
        )
    workspace.challenge.phase(phase)
    with workspace.ledger() as ledger:
        if not queries.submissions(ledger):
            raise ConfigurationError(
                "There are no submissions yet.", hint="Import them with `referee submissions import submissions.csv`."
            )
    refuse_unfit_host(workspace)
    with workspace.ledger() as ledger, ledger.lead() as lease:
        orders = _orders(workspace.challenge, ledger, lease, phase, read, yes=yes)
        campaign = evaluate(workspace, ledger, lease, phase, orders=orders)
        return _closing_words(ledger, phase, campaign)


def _orders(
    challenge: Challenge, ledger: Ledger, lease: Lease, phase: str, plan: Plan | None, *, yes: bool
) -> Orders | None:
    """The orders under the plan that is confirmed now, or was before; none where nothing costs anything."""
    from referee.planning.tables import plan_table  # noqa: PLC0415 - brings scipy, which few commands need
    from referee.prospects import execution, fleet, history  # noqa: PLC0415 - the same

    machines = fleet.bought(challenge)
    if plan is not None:
        before = execution.confirmed_plans(ledger, phase)
        if not before or before[-1].plan != plan:
            started = history.history(challenge, ledger, phase).started
            execution.check(plan, challenge, phase, machines, started)
            screen.print_facts(plan_table(plan))
            screen.confirm(f"Execute this plan, for about ${plan.cost.mid:,.2f} in all?", yes)
            lease.append([execution.confirmation(plan)])
    return execution.standing_orders(challenge, ledger, phase, machines)


def refuse_unfit_host(workspace: Workspace) -> None:
    """Say what is missing before anything is done.

    Raises:
        HostError: if this machine cannot run submissions, where it is this machine that would.
    """
    if workspace.challenge.engine.name in REMOTE:
        return
    failing = [check for check in examine_host(workspace.challenge.sandbox.level) if check.status == "fail"]
    if failing:
        raise HostError(
            "This machine cannot run submissions: " + "; ".join(f"{c.name}: {c.seen}" for c in failing) + ".",
            hint="; ".join(check.mend for check in failing),
        )


def confirm_further_runs(
    challenge: Challenge, ledger: Ledger, all_series: Sequence[queries.SeriesRow], yes: bool
) -> None:
    """Ask before further runs that cost money: no confirmed plan covers them.

    Raises:
        ConfigurationError: if the answer is no, or nobody is there to ask.
    """
    from referee.prospects import drawing, fleet  # noqa: PLC0415 - brings scipy, which few commands need

    runs, most = 0, Decimal(0)
    for series in all_series:
        left = len(series.submissions) - queries.status(ledger, series.phase, series.series).done
        machines = fleet.bought(challenge)
        if series.machine_type is not None:
            machines = {name: machine for name, machine in machines.items() if name == series.machine_type}
        runs += left
        most += drawing.most_that_it_costs(for_series(challenge, series), machines, left)
    if most:
        screen.confirm(f"{runs} further runs, which cost at most ${most:,.2f}. Start them?", yes)


def evaluate(
    workspace: Workspace,
    ledger: Ledger,
    lease: Lease,
    phase: str,
    *,
    orders: Orders | None = None,
    series: queries.SeriesRow | None = None,
) -> Campaign:
    """Record the phase, prove this machine, and run a campaign to its end, with progress and orderly interruption.

    Args:
        workspace: the challenge.
        ledger: its ledger.
        lease: the right to write as the controller.
        phase: the phase.
        orders: what is to be run now, and where.
        series: further runs instead of the official evaluations.

    Raises:
        ConfigurationError: if challenge.toml requires that submissions reproduce first, and some were not checked.
    """
    held = {} if series else kept_off(workspace, ledger, phase)
    with _byte_progress(f"Recording {phase}") as on_progress:
        data, events = workspace.record(phase, on_progress)
    if workspace.challenge.engine.name not in REMOTE:
        events += _proof(workspace, ledger)
    if events:
        lease.append(events)
    challenge = for_series(workspace.challenge, series) if series else workspace.challenge
    engine = create_engine(challenge, workspace.objects, workspace.node)
    try:
        campaign = Campaign(challenge, lease, engine, workspace.objects, data, phase, orders, series=series, held=held)
        with _handling_signals(campaign), _Board(ledger, phase, series.series if series else "") as board:
            refresh = _telling(engine, campaign, board.refresh)
            campaign.run(refresh if series else _watching(challenge, ledger, phase, refresh))
        say_what_is_up(engine)
    finally:
        engine.close()
    return campaign


def say_what_is_up(engine: Engine) -> None:
    """Say which of the machines that were hired for the campaign are still paid for."""
    if not isinstance(engine, Hiring):
        return
    up = engine.up()
    if up is None:
        screen.note("Which machines are up could not be asked: see `referee cloud status`.")
    elif up:
        screen.note(f"Still up and paid for: {', '.join(up)}. Machines that are idle are ended by themselves after")
        screen.note("some minutes; `referee cloud status --wait` says when none is left.")
    else:
        screen.note("None of the machines is up any more.")


def _telling(engine: Engine, campaign: Campaign, refresh: Callable[[], None]) -> Callable[[], None]:
    """After each pass of the controller: also what keeps the work on other machines from going on, when it is new."""
    if not isinstance(engine, Remote):
        return refresh
    told: set[str] = set()

    def look() -> None:
        refresh()
        for trouble in filter(None, (*engine.troubles(), campaign.trouble)):
            subject = re.sub(r"\d\S*", "", trouble)  # how many jobs, for how long: a new number is nothing new
            if subject not in told:
                told.add(subject)
                screen.note(f"Warning: {trouble}")

    return look


def _proof(workspace: Workspace, ledger: Ledger) -> list[Event]:
    """That this machine keeps what the sandbox promises, unless the ledger knows it of this boot."""
    sandbox = workspace.challenge.sandbox
    proof = prove_host(workspace.node, sandbox.level, sandbox.accepted_risks)
    known = {(row.node, row.boot_id, row.level) for row in queries.nodes(ledger) if row.proved}
    proved = NodeProved(node=socket.gethostname(), boot_id=proof.boot_id, level=sandbox.level, checks=len(proof.checks))
    return [] if (proved.node, proved.boot_id, proved.level) in known else [proved]


def _watching(challenge: Challenge, ledger: Ledger, phase: str, refresh: Callable[[], None]) -> Callable[[], None]:
    """After each pass of the controller: what has ended, and what endangers deadline or budget, when that is new."""
    from referee.prospects.watch import Watch  # noqa: PLC0415 - brings scipy, which few commands need

    watch = Watch(challenge, ledger, phase, lambda: datetime.now(UTC))

    def look() -> None:
        refresh()
        seen = watch.look()
        for advice in seen.warnings if seen else ():
            screen.note(f"Warning ({advice.danger}): {advice.sentence} {advice.proposal}")

    return look


@contextmanager
def _handling_signals(campaign: Campaign) -> Iterator[None]:
    presses = 0

    def interrupted(number: int, _frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses == 1 and number == signal.SIGINT:
            campaign.drain()
            screen.note("Starting nothing more; waiting for what runs. Press Ctrl-C again to end it now.")
        else:
            campaign.cancel()
            screen.note("Ending what runs. It counts against nobody and is run again next time.")

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _byte_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        console=screen.err,
        transient=True,
    ) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class _Board:
    """Progress while a campaign runs: a line for each evaluation that ended, and on a terminal a bar with an ETA."""

    def __init__(self, ledger: Ledger, phase: str, series: str = "") -> None:
        self._ledger, self._phase, self._series = ledger, phase, series
        self._seen = {row.evaluation for row in queries.evaluations(ledger, phase, series) if row.verdict}
        self._before = len(self._seen)
        self._began = datetime.now(UTC)
        self._progress = Progress(
            TextColumn(phase),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=screen.err,
            disable=not screen.err.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(phase, total=None, eta="")

    def __enter__(self) -> _Board:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def refresh(self) -> None:
        """Print what ended since the last call."""
        status = queries.status(self._ledger, self._phase, self._series)
        if status.done > len(self._seen):
            for row in queries.evaluations(self._ledger, self._phase, self._series):
                if row.verdict and row.evaluation not in self._seen:
                    self._seen.add(row.evaluation)
                    self._progress.console.print(self._line(row), markup=False, highlight=False, soft_wrap=True)
        self._progress.update(self._task, completed=status.done, total=status.total, eta=self._eta(status))

    def _line(self, row: queries.EvaluationRow) -> str:
        words = [f"{row.submission}  {row.verdict}"]
        attempt = next(
            (a for a in queries.attempts(self._ledger, evaluation=row.evaluation) if a.attempt == row.attempt), None
        )
        if attempt and attempt.measurements:
            measured = attempt.measurements
            words.append(f"{format_duration(measured.wall_seconds)}, {format_size(measured.peak_memory_bytes)}")
        if row.attempts > 1:
            words.append(f"attempt {row.attempts}")
        return "  ".join(words)

    def _eta(self, status: queries.Status) -> str:
        ended = status.done - self._before
        if not ended:
            return "ETA after the first one ends"
        pace = (datetime.now(UTC) - self._began) / ended
        return f"ETA {format_duration(pace * (status.total - status.done))}" if status.total > status.done else ""


def _closing_words(ledger: Ledger, phase: str, campaign: Campaign) -> int:
    status = queries.status(ledger, phase)
    ok = status.verdicts.get(Verdict.OK, 0)
    if (cancelled := status.verdicts.get(Verdict.CANCELLED, 0)) and not campaign.stopped_because:
        ended = f"{status.done - cancelled} of {status.total} evaluations on {phase} have ended"
        screen.say(f"{ended}; {cancelled} were cancelled, which counts against nobody; {status.waiting} wait.")
        screen.say(f"Go on with: referee run --phase {phase}")
        return INTERRUPTED
    if status.done == status.total:
        screen.say(f"All {status.total} evaluations on {phase} have ended: {ok} ok, {status.total - ok} not.")
        _print_failures(ledger, phase)
        rows = queries.evaluations(ledger, phase)
        hosts = sum(row.final is False and row.verdict is not Verdict.UNROUTABLE for row in rows)
        if hosts:
            screen.say(
                f"{hosts} did not end by a submission's doing: `referee resume` and `referee run` try them again."
            )
        if held := queries.held(ledger, phase):
            screen.say(
                f"{len(held)} submissions were not run, because they did not reproduce: {', '.join(sorted(held))}."
            )
            screen.say(
                "`referee reproduce` says why; `referee ruling admit SUBMISSION --reason TEXT` lets one through."
            )
        screen.say(f"Next: referee score --phase {phase}")
        return 0
    screen.say(f"{status.done} of {status.total} evaluations on {phase} have ended; {status.waiting} wait.")
    if campaign.stopped_because:
        raise HostError(
            f"Nothing more was started: {campaign.stopped_because}",
            hint="See `referee status`; mend the host, then `referee resume` and `referee run` go on.",
        )
    screen.say(f"Go on with: referee run --phase {phase}")
    return INTERRUPTED


def _print_failures(ledger: Ledger, phase: str) -> None:
    failed = [row for row in queries.evaluations(ledger, phase) if row.verdict is not Verdict.OK]
    attempts = {row.attempt: row for row in queries.attempts(ledger, phase=phase)}
    screen.print_table(
        ["submission", "verdict", "blame", "what is known"],
        [
            (
                row.submission,
                str(row.verdict),
                str(MEANINGS[row.verdict].blame) if row.verdict else "",
                (attempts[row.attempt].detail or attempts[row.attempt].signature or "") if row.attempt else row.reason,
            )
            for row in failed
        ],
    )


@app.command
def resume(*, challenge: Folder = HERE, reason: str = "") -> None:
    """Let a stopped dispatch go on, take quarantined nodes back, and reopen what did not end by the submission's doing.

    Parameters
    ----------
    reason
        What was mended; recorded in the ledger.
    """
    workspace = Workspace.open(challenge)
    with workspace.ledger() as ledger:
        events: list[Event] = []
        if queries.dispatch_stopped(ledger):
            events.append(DispatchResumed(reason=reason))
        events += [NodeReleased(node=row.node, reason=reason) for row in queries.nodes(ledger) if row.quarantined]
        staged = {row.rejudging for row in queries.rejudgings(ledger) if row.state == "staged"}
        rows = [row for row in queries.evaluations(ledger, series=None) if row.series in {"", *staged}]
        reopened = [row.evaluation for row in rows if row.verdict and not row.final]
        events += [EvaluationReopened(evaluation=name, reason=reason or "The host was mended.") for name in reopened]
        ledger.append(events)
        screen.say(f"{len(events) - len(reopened)} stops lifted, {len(reopened)} evaluations reopened.")
