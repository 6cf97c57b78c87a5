"""`referee machines`, `pilot`, `plan` and `simulate`: what it will cost, when it will end, and on which machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import TypeAdapter

from referee.challenge import FILE_NAME, Challenge, load_challenge
from referee.cli import screen
from referee.cli.app import HERE, INTERRUPTED, AsJson, Folder, app
from referee.cli.campaigns import Yes, evaluate, refuse_unfit_host
from referee.errors import ConfigurationError
from referee.ledger import Lease, Ledger, PilotDrawn, queries
from referee.reproductions import kept_off
from referee.units import format_duration, parse_duration, parse_usd
from referee.workspace import Workspace

PLAN_NAME = "plan.json"
Phase = Annotated[str | None, Parameter(help="By default the one private phase.")]
PlanFile = Annotated[Path | None, Parameter(name="--plan", help="By default plan.json beside challenge.toml.")]
Catalogue = Annotated[str, Parameter(help="The table that comes with Referee: aws-2022-03 or aws-2020-08.")]


@app.command
def machines(*, catalogue: Catalogue = "aws-2022-03", challenge: Folder = HERE, json: AsJson = False) -> None:
    """The machine types that can be planned with: CPUs, memory, GPUs, prices with their date and source.

    Your own machines and partitions ([machines.*] in challenge.toml, and this machine) come first.
    """
    from referee.planning.tables import machines_table  # noqa: PLC0415 - brings scipy, which few commands need
    from referee.prospects.fleet import everything  # noqa: PLC0415 - the same

    here = challenge if challenge.is_file() else challenge / FILE_NAME
    if challenge != HERE and not here.is_file():
        load_challenge(challenge)  # says what is missing
    table = everything(load_challenge(here) if here.is_file() else None, catalogue)
    if json:
        screen.print_json(table.model_dump(mode="json"))
        return
    screen.print_facts(machines_table(table))
    screen.say("Check prices before you rely on them; your own rows in challenge.toml win over these.")


@app.command
def pilot(
    *,
    fraction: Annotated[str | None, Parameter(help="Of all submissions, such as 2%.")] = None,
    count: Annotated[int | None, Parameter(help="So many submissions.")] = None,
    phase: Phase = None,
    seed: Annotated[int, Parameter(help="Of the draw.")] = 0,
    probe: Annotated[
        bool | None,
        Parameter(
            help="Run a few files of some of them on every machine type, too; by default where the choice costs money."
        ),
    ] = None,
    smoke_all: Annotated[
        bool,
        Parameter(
            negative="", help="First the smoke run of every submission, so that each is planned by what it needs."
        ),
    ] = False,
    yes: Yes = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> int:
    """Run a random sample first, to learn start-up, time for an item, memory, failures and speeds.

    It is drawn from every kind of submission. Its runs are the official ones of their submissions: nothing is run
    twice. Probes come on top: they tell how fast each machine type is for each submission. With --smoke-all every
    submission runs on a few files: what fails early has ended, and the plan sends each of the others to the cheapest
    machine type that is enough for it. Resumable: without --fraction or --count it goes on with the pilot that was
    drawn.
    """
    from referee.prospects import drawing, execution, fleet, probing  # noqa: PLC0415 - brings scipy, which few need

    workspace = Workspace.open(challenge)
    name = _phase(workspace.challenge, phase)
    if smoke_all and workspace.challenge.smoke.items is None:
        raise ConfigurationError(
            "--smoke-all: the challenge has no smoke run.", hint="Write `items = 4` under [smoke] in challenge.toml."
        )
    with workspace.ledger() as ledger:
        chosen = _pilot(workspace, ledger, name, fraction, count, seed)
        kinds = {f"{row.submission}.{name}": row.kind for row in queries.submissions(ledger)}
        earlier, files = drawing.drawn(ledger, name), _files(workspace, ledger, name)
    smoke_all = smoke_all or (earlier is not None and earlier.smoke_all)
    to_smoke = _to_smoke(workspace, name) if smoke_all else {}
    there = fleet.machine_types(workspace.challenge)
    drawn_kinds = [kinds[each] for each in chosen]
    if probe is None:
        probe = probing.worth_it(workspace.challenge, there, drawn_kinds)
    most = drawing.most_that_it_costs(workspace.challenge, there, len(chosen))
    if most:
        also = _also_costs(workspace.challenge, drawn_kinds if probe else [], files, to_smoke)
        screen.confirm(f"A pilot of {len(chosen)} submissions, which costs at most ${most:,.2f}{also}. Run it?", yes)
    refuse_unfit_host(workspace)
    with workspace.ledger() as ledger, ledger.lead() as lease:
        if earlier is None or set(earlier.evaluations) != set(chosen) or earlier.smoke_all != smoke_all:
            lease.append([PilotDrawn(phase=name, evaluations=chosen, seed=seed, most_usd=most, smoke_all=smoke_all)])
        aside = execution.aside_usd(ledger, name, there)
        orders = drawing.pilot_orders(
            workspace.challenge, there, chosen, kinds, probed=probe, aside_usd=aside, smoked=to_smoke
        )
        campaign = evaluate(workspace, ledger, lease, name, orders=orders)
        unsmoked = _to_smoke(workspace, name) if smoke_all else {}
        over = {row.evaluation for row in queries.evaluations(ledger, name) if row.verdict is not None}
        done = len(over & set(chosen))
        left = _probe(workspace, ledger, lease, name, chosen) if probe and done == len(chosen) and not unsmoked else 0
        if done == len(chosen) and not left and not unsmoked:
            _keep_forecast(workspace.challenge, ledger, name)
        _print_lessons(workspace.challenge, ledger, name, json=json)
    if done == len(chosen) and not left and not unsmoked:
        screen.note(f"The pilot of {len(chosen)} has ended. Next: referee plan --phase {name}")
        return 0
    stopped = f"{left} of its probes have not." if left else campaign.stopped_because
    if unsmoked:
        stopped = f"{len(unsmoked)} smoke runs have not. {stopped}".rstrip()
    screen.note(f"{done} of the pilot's {len(chosen)} have ended. {stopped}")
    screen.note(f"Go on with: referee pilot --phase {name}")
    return INTERRUPTED


def _also_costs(challenge: Challenge, probed: Sequence[str], files: int, to_smoke: Mapping[str, str]) -> str:
    """What comes on top of a pilot's full runs, in words: probes of these kinds, and smoke runs."""
    from referee.prospects import drawing, fleet, probing  # noqa: PLC0415 - brings scipy, which few commands need

    there, said = fleet.machine_types(challenge), ""
    probes, most = probing.most_that_probes_cost(challenge, there, probed, files)
    if probes:
        said = f", and at most {probes} probes of a few files for at most ${most:,.2f}"
    if to_smoke:
        most = drawing.most_that_smoke_costs(challenge, there, to_smoke)
        said += f", and {len(to_smoke)} smoke runs for at most ${most:,.2f}, if each took as long as it may"
    return said


def _to_smoke(workspace: Workspace, phase: str) -> dict[str, str]:
    """Of whom a smoke run is still wanted, and of which kind each is."""
    from referee.prospects import drawing, fleet  # noqa: PLC0415 - brings scipy, which few commands need

    there = fleet.machine_types(workspace.challenge)
    with workspace.ledger() as ledger:
        return drawing.to_smoke(workspace.challenge, ledger, phase, there, kept_off(workspace, ledger, phase))


def _probe(workspace: Workspace, ledger: Ledger, lease: Lease, phase: str, pilot: tuple[str, ...]) -> int:
    """Run the pilot's probes, one machine type after another; how many are left when it was interrupted."""
    from referee.prospects import execution, fleet, probing  # noqa: PLC0415 - brings scipy, which few commands need

    challenge, there = workspace.challenge, fleet.machine_types(workspace.challenge)
    files = queries.phases(ledger)[phase].files
    all_series = probing.begin(challenge, ledger, phase, there, pilot, files)
    if not all_series:
        return 0
    before = execution.aside_usd(ledger, phase, there)
    runs = 0
    for series in all_series:
        screen.note(f"Probing {len(series.submissions)} submissions on {series.machine_type}.")
        evaluate(workspace, ledger, lease, phase, orders=probing.probe_orders(challenge, ledger, phase), series=series)
        status = queries.status(ledger, phase, series.series)
        if left := len(series.submissions) - status.done:
            return left
        runs += status.done
    spent = execution.aside_usd(ledger, phase, there) - before
    screen.note(f"{runs} probes have ended" + (f"; they cost ${spent:,.2f}." if spent else "."))
    return 0


def _files(workspace: Workspace, ledger: Ledger, phase: str) -> int:
    """How many files a phase has, about: it may not have been recorded yet."""
    recorded = queries.phases(ledger).get(phase)
    if recorded is not None:
        return recorded.files
    folder = workspace.challenge.folder / workspace.challenge.phase(phase).data
    return sum(1 for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


@app.command
def plan(
    *,
    phase: Phase = None,
    deadline: Annotated[
        str | None, Parameter(help="From now, such as 21d; by default the challenge's. `none` plans without one.")
    ] = None,
    budget: Annotated[
        str | None, Parameter(help="US dollars for the whole phase; by default the challenge's. `none`: no bound.")
    ] = None,
    confidence: Annotated[str, Parameter(help="With which deadline and budget are to be kept.")] = "95%",
    machine: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Plan with this machine type of `referee machines`; by default the engine's."),
    ] = (),
    spot: Annotated[
        float | None,
        Parameter(help="Consider spot capacity, of which a machine is taken away so many times an hour."),
    ] = None,
    catalogue: Catalogue = "aws-2022-03",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="By default plan.json beside challenge.toml.")
    ] = None,
    page: Annotated[
        bool, Parameter(negative="--no-page", help="Write the plan with its pictures beside it, as HTML.")
    ] = True,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Say what the rest will cost, when it will end and on which machines, from what has run so far.

    Writes the plan to a file that `referee run --plan` executes, and a page with its pictures. Nothing is started.
    """
    from referee.planning.plan import write_plan  # noqa: PLC0415 - brings scipy, which few commands need
    from referee.planning.planner import Wishes  # noqa: PLC0415 - the same
    from referee.planning.spot import LossRate  # noqa: PLC0415 - the same
    from referee.planning.tables import plan_table  # noqa: PLC0415 - the same
    from referee.prospects import fleet, proposal  # noqa: PLC0415 - the same

    workspace = Workspace.open(challenge)
    name = _phase(workspace.challenge, phase)
    now = datetime.now(UTC)
    wishes = Wishes(
        deadline=_deadline(workspace.challenge, deadline, now),
        budget=_budget(workspace.challenge, budget),
        confidence=_share(confidence, "--confidence"),
        quotas=workspace.challenge.quotas or None,
        spot=LossRate.believed(_rate(spot)) if spot is not None else None,
    )
    table = fleet.chosen(workspace.challenge, machine, catalogue)
    with workspace.ledger() as ledger:
        made = proposal.propose(workspace.challenge, ledger, name, table, wishes, now)
    target = output or workspace.challenge.folder / PLAN_NAME
    write_plan(made.plan, target)
    if page:
        from referee.report.foresight import render_plan  # noqa: PLC0415 - drawing takes a second to load

        target.with_suffix(".html").write_text(render_plan(made), encoding="utf-8")
    if json:
        screen.print_json(made.plan.model_dump(mode="json"))
        return
    screen.print_facts(plan_table(made.plan))
    screen.say()
    beside = f" and {target.with_suffix('.html').name}" if page else ""
    screen.say(f"Wrote {target}{beside}.")
    screen.say(f"Next: referee simulate, or referee run --phase {name} --plan {target.name}")


@app.command
def simulate(
    *,
    plan: PlanFile = None,
    replicates: Annotated[int, Parameter(help="How often the plan is run.")] = 1000,
    seed: int = 0,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Run a plan many times over in a simulation: when it ends, what it costs, whether deadline and budget hold."""
    from referee.planning.plan import read_plan  # noqa: PLC0415 - brings scipy, which few commands need
    from referee.prospects import proposal  # noqa: PLC0415 - the same

    workspace = Workspace.open(challenge)
    if not 1 <= replicates <= 100_000:
        raise ConfigurationError(f"--replicates {replicates} is not possible.", hint="Choose 1 to 100000.")
    read = read_plan(plan or workspace.challenge.folder / PLAN_NAME)
    with workspace.ledger() as ledger:
        found = proposal.rehearsed(workspace.challenge, ledger, read, datetime.now(UTC), replicates, seed)
    if json:
        screen.print_json(TypeAdapter(dict[str, Any]).dump_python(found.as_json(), mode="json"))
        return
    for line in found.sentences():
        screen.say(line)


def _phase(challenge: Challenge, phase: str | None) -> str:
    if phase is not None:
        challenge.phase(phase)
        return phase
    private = [name for name, each in challenge.phases.items() if each.visibility == "private"]
    if len(private) != 1:
        raise ConfigurationError("Which phase?", hint=f"Write --phase with one of: {', '.join(challenge.phases)}.")
    return private[0]


def _pilot(
    workspace: Workspace, ledger: Ledger, phase: str, fraction: str | None, count: int | None, seed: int
) -> tuple[str, ...]:
    """The pilot that was drawn before, grown to what is asked for; or a new one."""
    from referee.planning.pilot import pilot_count  # noqa: PLC0415 - brings scipy, which few commands need
    from referee.prospects import drawing, fleet  # noqa: PLC0415 - the same

    if not queries.submissions(ledger):
        raise ConfigurationError(
            "There are no submissions yet.", hint="Import them with `referee submissions import submissions.csv`."
        )
    earlier = drawing.drawn(ledger, phase)
    already = earlier.evaluations if earlier else ()
    if fraction is None and count is None and already:
        return already
    machines, held = fleet.machine_types(workspace.challenge), kept_off(workspace, ledger, phase)
    strata = drawing.candidates(workspace.challenge, ledger, phase, machines, held)
    size = len(already) + sum(len(members.keys() - set(already)) for members in strata.values())
    wanted = pilot_count(size, fraction=_share(fraction, "--fraction") if fraction is not None else None, count=count)
    if wanted <= len(already):
        return already
    free = {kind: {k: v for k, v in members.items() if k not in already} for kind, members in strata.items()}
    free = {kind: members for kind, members in free.items() if members}
    return (*already, *drawing.draw(free, wanted - len(already), seed))


def _keep_forecast(challenge: Challenge, ledger: Ledger, phase: str) -> None:
    from referee.prospects.outlook import outlook  # noqa: PLC0415 - brings scipy, which few commands need
    from referee.prospects.watch import forecast_made  # noqa: PLC0415 - the same

    seen = outlook(challenge, ledger, phase, datetime.now(UTC))
    if seen is not None:
        ledger.append([forecast_made(seen, "pilot")])


def _print_lessons(challenge: Challenge, ledger: Ledger, phase: str, *, json: bool) -> None:
    from referee.prospects.fleet import fleet  # noqa: PLC0415 - brings scipy, which few commands need
    from referee.prospects.history import history  # noqa: PLC0415 - the same
    from referee.prospects.lessons import lessons, lessons_table  # noqa: PLC0415 - the same
    from referee.prospects.speeds import paces, paces_table  # noqa: PLC0415 - the same

    now = datetime.now(UTC)
    items = queries.phases(ledger)[phase].files
    past, there = history(challenge, ledger, phase), fleet(challenge)
    found, fast = lessons(challenge, past, there, items, now), paces(challenge, past, there, now)
    if json:
        said = {"lessons": [each.as_json() for each in found], "speeds": [each.as_json() for each in fast]}
        screen.print_json({"phase": phase, **said})
        return
    screen.print_facts(lessons_table(found))
    if fast:
        screen.print_facts(paces_table(fast))


def _deadline(challenge: Challenge, text: str | None, now: datetime) -> timedelta | None:
    if text == "none":
        return None
    if text is not None:
        try:
            return parse_duration(text)
        except ValueError as error:
            raise ConfigurationError(f"--deadline: {error}.", hint="It counts from now.") from error
    if challenge.deadline is None:
        return None
    if challenge.deadline <= now:
        raise ConfigurationError(
            f"The challenge's deadline passed {format_duration(now - challenge.deadline)} ago.",
            hint="Write another with --deadline, such as 7d from now.",
        )
    return challenge.deadline - now


def _budget(challenge: Challenge, text: str | None) -> Any:
    if text == "none":
        return None
    try:
        return challenge.budget if text is None else parse_usd(text)
    except ValueError as error:
        raise ConfigurationError(f"--budget: {error}.", hint="Write it as 50000 or 49999.50.") from error


def _share(text: str, option: str) -> float:
    """`2%` or `0.02` as a number between 0 and 1."""
    bare = text.strip()
    try:
        share = float(bare.removesuffix("%")) / (100 if bare.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigurationError(f"{option} {text} is not a share.", hint="Write it as 2% or 0.02.")
    return share


def _rate(per_hour: float) -> float:
    if not 0 < per_hour < 100:
        raise ConfigurationError(f"--spot {per_hour} is not a rate of losses.", hint="Write 0.05 for one in 20 hours.")
    return per_hour
