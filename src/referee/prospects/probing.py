"""Probes: a few files of some of the pilot's submissions on every machine type that they fit, beside the official runs.

They tell how fast each type is for each submission, and how a submission scales with the CPUs of a machine, for a small
part of what a second run would cost. They are further runs in series of their own: no result comes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal

from referee.challenge import Challenge, Limits, MachineType
from referee.ledger import Ledger, SeriesStarted, queries
from referee.orders import Orders, measured_of, most_usd, probe_items
from referee.planning.classes import gpu_bytes, needed
from referee.planning.money import dollars
from referee.planning.pilot import PROBES_OF_A_KIND
from referee.planning.speeds import Probe
from referee.prospects.drawing import fitting
from referee.verdicts import Verdict

# A few files take as much less as they are fewer; loading a model does not.
_LEAST_LIMIT = timedelta(minutes=10)
_SLACK = 4


def worth_it(challenge: Challenge, machines: Mapping[str, MachineType], kinds: Sequence[str]) -> bool:
    """Whether there is a choice between machine types that would cost or save anything."""
    for kind in set(kinds):
        prices = [machines[name].price for name in fitting(challenge, machines, kind)]
        if len(prices) > 1 and any(prices):
            return True
    return False


def probe_limits(challenge: Challenge, files: int) -> Limits:
    """The limits of a probe: those of the full run, with less time."""
    limits, few = challenge.limits, probe_items(challenge.smoke)
    shorter = max(limits.wall_time * min(_SLACK * few / max(files, 1), 1.0), _LEAST_LIMIT)
    return limits.model_copy(update={"wall_time": min(limits.wall_time, shorter)})


def most_that_probes_cost(
    challenge: Challenge, machines: Mapping[str, MachineType], kinds: Sequence[str], files: int
) -> tuple[int, Decimal]:
    """How many probes a pilot of these kinds has at most, and what they cost if all run to their limit."""
    limit, runs, usd = probe_limits(challenge, files).wall_time, 0, Decimal(0)
    for kind in sorted(set(kinds)):
        types = fitting(challenge, machines, kind)
        if len(types) > 1:
            number = min(sum(each == kind for each in kinds), PROBES_OF_A_KIND)
            runs += number * len(types)
            usd += number * sum(most_usd(machines[name], limit, 1 / machines[name].speed) for name in types)
    return runs, dollars(float(usd))


def begin(
    challenge: Challenge,
    ledger: Ledger,
    phase: str,
    machines: Mapping[str, MachineType],
    pilot: Sequence[str],
    files: int,
) -> tuple[queries.SeriesRow, ...]:
    """The series in which the pilot's submissions are probed that were not yet, one for each machine type.

    Args:
        challenge: for limits and kinds.
        ledger: where they are recorded.
        phase: the pilot's.
        machines: those of the engine.
        pilot: its evaluations, in the order in which they were drawn.
        files: of the phase.
    """
    wanted = _wanted(challenge, ledger, phase, machines, pilot)
    before = queries.series(ledger)
    known = {(one.machine_type, who) for one in _of(before, phase) for who in one.submissions}
    number = sum(one.purpose == "probe" for one in before)
    fresh = []
    for name, submissions in wanted.items():
        missing = tuple(who for who in submissions if (name, who) not in known)
        if missing:
            number += 1
            fresh.append(
                SeriesStarted(
                    series=f"probe-{number}",
                    purpose="probe",
                    phase=phase,
                    submissions=missing,
                    machine_type=name,
                    limits=probe_limits(challenge, files),
                )
            )
    ledger.append(fresh)
    return tuple(
        one
        for one in _of(queries.series(ledger), phase)
        if queries.status(ledger, phase, one.series).done < len(one.submissions)
    )


def _wanted(
    challenge: Challenge, ledger: Ledger, phase: str, machines: Mapping[str, MachineType], pilot: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """By machine type, who is to be probed there: of each kind the first of the pilot that gave a valid result.

    A smoke run on the same type, on the same files, is a probe already. Nobody is probed where its GPU memory would run
    out, by what was measured of it.
    """
    rows = {row.evaluation: row for row in queries.evaluations(ledger, phase)}
    valid = [rows[name] for name in pilot if name in rows and rows[name].verdict is Verdict.OK]
    attempts = queries.attempts(ledger, phase=phase)
    smoked = {(row.machine_type, row.evaluation) for row in attempts if row.smoke and row.verdict is Verdict.OK}
    measured = measured_of(attempts, machines, challenge.limits.cpus)
    too_small = {
        (name, evaluation)
        for evaluation, each in measured.items()
        for name, machine in machines.items()
        if (needed(each, "gpu_memory") or 0) > gpu_bytes(machine)
    }
    found: dict[str, list[str]] = {}
    for kind in sorted({row.submission_kind for row in valid}):
        types = fitting(challenge, machines, kind)
        some = [row for row in valid if row.submission_kind == kind][:PROBES_OF_A_KIND]
        for name in types if len(types) > 1 else ():
            left_out = smoked | too_small
            found.setdefault(name, []).extend(row.submission for row in some if (name, row.evaluation) not in left_out)
    return {name: tuple(submissions) for name, submissions in found.items()}


def _of(series: Sequence[queries.SeriesRow], phase: str) -> list[queries.SeriesRow]:
    return [one for one in series if one.purpose == "probe" and one.phase == phase]


def probe_orders(challenge: Challenge, ledger: Ledger, phase: str) -> Orders:
    """What probes may do: go where their series says, within what the budget leaves."""
    spent = usd_of((*queries.attempts(ledger, phase=phase), *probe_attempts(ledger, phase)), challenge.machines)
    return Orders(budget_usd=challenge.budget, aside_usd=spent)


def usd_of(attempts: Sequence[queries.AttemptRow], machines: Mapping[str, MachineType]) -> Decimal:
    """What ended attempts cost, at the machines' prices."""
    hour = Decimal(3600)
    return sum(
        (
            machines[row.machine_type].price * Decimal(repr((row.ended_at - row.started_at).total_seconds())) / hour
            for row in attempts
            if row.started_at is not None and row.ended_at is not None and row.machine_type in machines
        ),
        Decimal(0),
    )


def probe_attempts(ledger: Ledger, phase: str) -> tuple[queries.AttemptRow, ...]:
    """All attempts of a phase's probes: their cost is the pilot's."""
    return tuple(
        row
        for one in _of(queries.series(ledger), phase)
        for row in queries.attempts(ledger, phase=phase, series=one.series)
    )


def probes(
    attempts: Sequence[queries.AttemptRow],
    further: Sequence[queries.AttemptRow],
    kinds: Mapping[str, str],
) -> tuple[Probe, ...]:
    """What smoke runs and probes have measured.

    Args:
        attempts: official ones, smoke runs among them.
        further: those of the probes.
        kinds: of each official evaluation.
    """
    smoked = [(row.evaluation, row) for row in attempts if row.smoke]
    # A further run is called like the official one, with its series behind.
    probed = [(row.evaluation.rsplit(".", 1)[0], row) for row in further]
    return tuple(
        Probe(evaluation, kinds[evaluation], row.machine_type, row.measurements.wall_seconds)
        for evaluation, row in (*smoked, *probed)
        if row.verdict is Verdict.OK and row.measurements is not None and evaluation in kinds
    )
