"""The ledger's attempts as the planner's groups: every attempt that was started, ended or still running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from referee.challenge import Challenge
from referee.ledger import Ledger, queries
from referee.orders import originals
from referee.planning.catalogue import Catalogue
from referee.planning.groups import Group
from referee.planning.observation import Observation, Requirement, groups_of
from referee.prospects.probing import probe_attempts, probes
from referee.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class History:
    """What has happened on a phase, as far as the planner learns from it.

    Attributes:
        evaluations: those that are run themselves: no copies of an equal image, none that could never be started.
        attempts: theirs that an engine was given, in the order in which they were planned.
        kinds: of each evaluation.
        aside: attempts of probes: no result comes of them, but they are paid for.
    """

    evaluations: tuple[queries.EvaluationRow, ...]
    attempts: tuple[queries.AttemptRow, ...]
    kinds: Mapping[str, str]
    aside: tuple[queries.AttemptRow, ...] = ()

    @property
    def ended(self) -> int:
        """How many evaluations have ended."""
        return sum(row.verdict is not None for row in self.evaluations)

    @property
    def finished(self) -> bool:
        """Whether all have ended, and there are some."""
        return bool(self.evaluations) and self.ended == len(self.evaluations)


def history(challenge: Challenge, ledger: Ledger, phase: str) -> History:
    """Read it from the ledger. Nothing may have been requested yet: then there are no evaluations."""
    rows = queries.evaluations(ledger, phase)
    if challenge.duplicates == "run_once":
        first = originals(rows)
        rows = tuple(row for row in rows if first[row.evaluation] == row.evaluation)
    rows = tuple(row for row in rows if row.verdict is None or row.attempts > 0)
    names = {row.evaluation for row in rows}
    attempts = tuple(
        row
        for row in queries.attempts(ledger, phase=phase)
        if row.evaluation in names and row.submitted_at is not None and row.verdict is not Verdict.DUPLICATE
    )
    aside = tuple(row for row in probe_attempts(ledger, phase) if row.submitted_at is not None)
    return History(rows, attempts, {row.evaluation: row.submission_kind for row in rows}, aside)


def groups(challenge: Challenge, past: History, catalogue: Catalogue, now: datetime) -> list[Group]:
    """The planner's groups, one for each kind, as they stand at `now`."""
    sizes = dict(sorted(Counter(past.kinds.values()).items()))
    return groups_of(
        observations(past, now),
        sizes,
        {kind: requirement(challenge, kind) for kind in sizes},
        _limits(challenge, past, catalogue),
        probes(past.attempts, past.aside, past.kinds),
    )


def spent_aside(past: History, catalogue: Catalogue, now: datetime) -> tuple[float, float]:
    """Machine hours and US dollars of the probes so far."""
    hours = [(row.machine_type, seconds_taken(row, now) / 3600) for row in past.aside]
    prices = {name: float(offer.price) for name, offer in catalogue.offers.items()}
    return sum(each for _, each in hours), sum(each * prices.get(name, 0.0) for name, each in hours)


def requirement(challenge: Challenge, kind: str) -> Requirement:
    """What the challenge's limits grant to an evaluation of this kind."""
    limits = challenge.limits
    return Requirement(limits.fewest_cpus, limits.memory, limits.gpus if kind == "gpu" else 0)


def observations(past: History, now: datetime) -> list[Observation]:
    """One for each attempt. An evaluation's last attempt is final if the evaluation has ended."""
    over = {row.evaluation for row in past.evaluations if row.verdict is not None}
    return [
        Observation(
            evaluation=row.evaluation,
            kind=past.kinds[row.evaluation],
            machine_type=row.machine_type,
            hours=seconds_taken(row, now) / 3600,
            final=row.verdict is not None and row.evaluation in over,
            cpus_used=row.measurements.cpu_seconds / max(row.measurements.wall_seconds, 1e-9)
            if row.measurements
            else 0,
            peak_memory_bytes=row.measurements.peak_memory_bytes if row.measurements else 0,
            peak_gpu_memory_bytes=(row.measurements.gpu_peak_memory_bytes or 0) if row.measurements else 0,
        )
        for row in past.attempts
    ]


def seconds_taken(row: queries.AttemptRow, now: datetime) -> float:
    """For how long an attempt has kept its machine, start-up and all; the same seconds as on the bill."""
    if row.started_at is not None and row.ended_at is not None:
        return max((row.ended_at - row.started_at).total_seconds(), 0.0)
    if row.verdict is not None:
        return row.measurements.wall_seconds + row.measurements.preparation_seconds if row.measurements else 0.0
    return max((now - (row.started_at or row.submitted_at or row.planned_at)).total_seconds(), 0.0)


def _limits(challenge: Challenge, past: History, catalogue: Catalogue) -> dict[str, float]:
    """Hours after which nothing runs any more, by machine type: the limit as it is applied there, and start-up."""
    start_up = _longest_start_up(past.attempts)
    speeds = {name: offer.speed for name, offer in catalogue.offers.items()}
    used = {row.machine_type for row in past.attempts} | set(speeds)
    wall = challenge.limits.wall_time.total_seconds()
    return {name: (wall / speeds.get(name, 1.0) + start_up) / 3600 for name in used}


def _longest_start_up(attempts: Sequence[queries.AttemptRow]) -> float:
    return max((row.measurements.preparation_seconds for row in attempts if row.measurements), default=0.0)
