"""The pilot of a phase: drawn at random from every kind, recorded, and taken up again where it stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from referee.challenge import Challenge, MachineType
from referee.errors import ConfigurationError
from referee.ledger import Ledger, PilotDrawn, queries
from referee.orders import Orders, most_usd, originals
from referee.planning.money import dollars
from referee.planning.pilot import allocate, draw_in_bands
from referee.routing import lacks
from referee.verdicts import Verdict


def drawn(ledger: Ledger, phase: str) -> PilotDrawn | None:
    """The phase's pilot, as it was last drawn."""
    found = [recorded.event for recorded in ledger.events(PilotDrawn)]
    mine = [event for event in found if isinstance(event, PilotDrawn) and event.phase == phase]
    return mine[-1] if mine else None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An evaluation that is there, or will be once the campaign begins."""

    evaluation: str
    image: str
    submission_kind: str
    attempts: int
    public_seconds: float | None


def candidates(
    challenge: Challenge,
    ledger: Ledger,
    phase: str,
    machines: Mapping[str, MachineType],
    held: Collection[str] = (),
    *,
    begun: bool = False,
) -> dict[str, dict[str, float | None]]:
    """Whom a pilot is drawn from: by kind, the evaluations that were not started, with recorded public runtimes.

    With `begun` also those that were, and have not ended. Of equal images only the one that is run, where the challenge
    runs them once; no kind that fits no machine, and no submission that is held off the phase.
    """
    known = {row.submission: row for row in queries.evaluations(ledger, phase)}
    never = {*held, *(queries.taken_off(ledger).keys() - known.keys())}  # will not be requested
    wanted = [
        _Wanted(
            f"{row.submission}.{phase}",
            row.image,
            row.kind,
            known[row.submission].attempts if row.submission in known else 0,
            row.public_runtime_seconds,
        )
        for row in queries.submissions(ledger)
        if row.submission not in never
        if row.submission not in known or known[row.submission].verdict is None
    ]
    once = challenge.duplicates == "run_once"
    first = originals(wanted) if once else {}
    # A copy of what has run only waits for the next pass to be given its verdict.
    run = {(row.image, row.submission_kind) for row in known.values() if row.attempts} if once else set()
    found: dict[str, dict[str, float | None]] = {}
    for each in wanted:
        if not fitting(challenge, machines, each.submission_kind):
            continue
        if not each.attempts and (each.image, each.submission_kind) in run:
            continue
        if (begun or not each.attempts) and first.get(each.evaluation, each.evaluation) == each.evaluation:
            found.setdefault(each.submission_kind, {})[each.evaluation] = each.public_seconds
    return found


def fitting(challenge: Challenge, machines: Mapping[str, MachineType], kind: str) -> list[str]:
    """The machine types that a kind of submissions fits, by name."""
    gpus = challenge.limits.gpus if kind == "gpu" else 0
    return sorted(name for name, machine in machines.items() if not lacks(machine, challenge.limits, gpus))


def draw(strata: Mapping[str, Mapping[str, float | None]], count: int, seed: int) -> tuple[str, ...]:
    """`count` evaluations: each kind its share, drawn from bands of public runtimes where these are known.

    Raises:
        ConfigurationError: if there are not that many that were not started.
    """
    there = sum(len(members) for members in strata.values())
    if count > there:
        raise ConfigurationError(
            f"A pilot of {count} more is not possible: {there} evaluations were not started yet.",
            hint="Plan with what has run, or choose fewer.",
        )
    wanted = allocate({kind: len(members) for kind, members in strata.items()}, count)
    return tuple(name for kind in sorted(strata) for name in draw_in_bands(strata[kind], wanted[kind], seed))


def to_smoke(
    challenge: Challenge,
    ledger: Ledger,
    phase: str,
    machines: Mapping[str, MachineType],
    held: Collection[str] = (),
) -> dict[str, str]:
    """Of whom a smoke run is wanted before the plan, with the kind of each: all that can run and have passed none."""
    strata = candidates(challenge, ledger, phase, machines, held, begun=True)
    passed = {
        row.evaluation
        for row in queries.attempts(ledger, phase=phase)
        if not row.smoke or row.verdict is Verdict.OK  # who has a full run needs no smoke run any more
    }
    return {name: kind for kind, members in strata.items() for name in members if name not in passed}


def most_that_smoke_costs(
    challenge: Challenge, machines: Mapping[str, MachineType], wanted: Mapping[str, str]
) -> Decimal:
    """If every smoke run took as long as a full run may, on the dearest machine type that it may be given."""
    limit, usd = challenge.limits.wall_time, Decimal(0)
    for kind in set(wanted.values()):
        types = [machines[name] for name in fitting(challenge, machines, kind)]
        dearest = max((most_usd(each, limit, 1 / each.speed) for each in types), default=Decimal(0))
        usd += sum(of == kind for of in wanted.values()) * dearest
    return dollars(float(usd))


def smoke_places(challenge: Challenge, machines: Mapping[str, MachineType]) -> dict[str, str]:
    """Where a smoke run shows how many CPUs a submission would use: the cheapest type with as many as may be granted.

    GPU memory shows itself anywhere: those smoke runs go where full runs would.
    """
    most = challenge.limits.cpus

    def short_of(name: str) -> tuple[float, Decimal, str]:
        return -min(machines[name].cpus, most), machines[name].price, name

    types = fitting(challenge, machines, "cpu")
    return {"cpu": min(types, key=short_of)} if types else {}


def most_that_it_costs(challenge: Challenge, machines: Mapping[str, MachineType], count: int) -> Decimal:
    """If every one of them ran to its limit on the dearest machine type that it may be given."""
    limit = challenge.limits.wall_time
    return dollars(float(count * max((most_usd(m, limit, 1 / m.speed) for m in machines.values()), default=Decimal(0))))


def pilot_orders(
    challenge: Challenge,
    machines: Mapping[str, MachineType],
    pilot: Sequence[str],
    kinds: Mapping[str, str],
    *,
    probed: bool = False,
    aside_usd: Decimal = Decimal(0),
    smoked: Collection[str] = (),
) -> Orders:
    """Run these only.

    Args:
        challenge: for limits and budget.
        machines: those of the engine.
        pilot: the evaluations.
        kinds: of each.
        probed: whether probes will tell the speed of each machine type. Then the pilot's runs, the official ones, go
            where an hour of work is cheapest; else they are spread over all types that fit, so that it is learned.
        aside_usd: what was spent on probes before.
        smoked: those of whom the smoke run alone is wanted beside it.
    """
    shares: dict[str, dict[str, int]] = {}
    for kind in sorted(set(kinds.values())):
        types = fitting(challenge, machines, kind)
        number = sum(kinds[name] == kind for name in pilot)
        if types and number:
            some = [_cheapest_for_work(types, machines)] if probed else types
            # Named even where there is one only: the same machines as spot capacity are another type, and cheaper.
            shares[kind] = {name: -(-number // len(some)) for name in some}
    return Orders(
        only=frozenset(pilot),
        smoked=frozenset(smoked),
        smoke_on=smoke_places(challenge, machines) if smoked else {},
        shares=shares,
        budget_usd=challenge.budget,
        aside_usd=aside_usd,
    )


def _cheapest_for_work(types: Sequence[str], machines: Mapping[str, MachineType]) -> str:
    """By price and declared speed; of equals the one with the lowest price an hour, and so the fewest CPUs."""

    def usd_for_work(name: str) -> tuple[Decimal, Decimal, str]:
        return machines[name].price / Decimal(repr(machines[name].speed)), machines[name].price, name

    return min(types, key=usd_for_work)
