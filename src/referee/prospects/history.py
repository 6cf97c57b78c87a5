"""The ledger's attempts as the planner's groups: every attempt that was started, ended or still running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from referee.challenge import Challenge
from referee.ledger import Ledger, queries
from referee.orders import measured_of, members_of, originals
from referee.planning.catalogue import Catalogue
from referee.planning.classes import NeedClass, classes_of
from referee.planning.division import divided
from referee.planning.groups import Group
from referee.planning.observation import Observation, Requirement, groups_of
from referee.prospects.drawing import drawn
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
        smoked_first: whether a pilot had every submission make its smoke run. Then these stand aside, too: who has
            passed one waits like anybody, and who failed in it is no part of what the full runs show.
        public: by evaluation, the recorded hours of its submission on a public phase.
    """

    evaluations: tuple[queries.EvaluationRow, ...]
    attempts: tuple[queries.AttemptRow, ...]
    kinds: Mapping[str, str]
    aside: tuple[queries.AttemptRow, ...] = ()
    smoked_first: bool = False
    public: Mapping[str, float] = field(default_factory=dict)

    @property
    def full(self) -> tuple[queries.AttemptRow, ...]:
        """The attempts that show how long evaluations take."""
        return tuple(row for row in self.attempts if not (self.smoked_first and row.smoke))

    @property
    def smoked_out(self) -> frozenset[str]:
        """The evaluations that ended in a smoke run which stands aside."""
        if not self.smoked_first:
            return frozenset()
        smoke = {row.attempt for row in self.attempts if row.smoke}
        return frozenset(row.evaluation for row in self.evaluations if row.verdict and row.attempt in smoke)

    @property
    def started(self) -> int:
        """How many evaluations have started, or ended without a full run."""
        return len({row.evaluation for row in self.full}) + len(self.smoked_out)

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
    # What no machine could run, though it was tried, took no time: counted as ended, it makes the others look short.
    rows = tuple(row for row in rows if row.verdict is None or (row.attempts and row.verdict is not Verdict.UNROUTABLE))
    names = {row.evaluation for row in rows}
    attempts = tuple(
        row
        for row in queries.attempts(ledger, phase=phase)
        if row.evaluation in names and row.submitted_at is not None and row.verdict is not Verdict.DUPLICATE
    )
    aside = tuple(row for row in probe_attempts(ledger, phase) if row.submitted_at is not None)
    pilot = drawn(ledger, phase)
    kinds = {row.evaluation: row.submission_kind for row in rows}
    recorded = {row.submission: row.public_runtime_seconds for row in queries.submissions(ledger)}
    public = {row.evaluation: seconds / 3600 for row in rows if (seconds := recorded.get(row.submission)) is not None}
    smoked_first = pilot is not None and pilot.smoke_all
    return History(rows, attempts, kinds, aside, smoked_first=smoked_first, public=public)


def groups(
    challenge: Challenge, past: History, catalogue: Catalogue, now: datetime, classes: Sequence[NeedClass] = ()
) -> list[Group]:
    """The planner's groups as they stand at `now`: one for each kind, or for each class into which it is divided."""
    out = past.smoked_out
    sizes = dict(sorted(Counter(kind for name, kind in past.kinds.items() if name not in out).items()))
    probed = probes(past.attempts, past.aside, past.kinds)
    found = groups_of(
        observations(past, now),
        sizes,
        {kind: requirement(challenge, kind) for kind in sizes},
        _limits(challenge, past, catalogue),
        probed,
    )
    waits = {name: hours for name, hours in past.public.items() if name not in out}
    found = [replace(each, public={n: h for n, h in waits.items() if past.kinds[n] == each.name}) for each in found]
    if not classes:
        return found
    measured = measured_of(past.attempts, catalogue.offers, challenge.limits.cpus)
    members = members_of(past.kinds, measured, classes)
    waiting = {kind: [name for name in _waiting(past) if past.kinds[name] == kind] for kind in sizes}
    return [part for group in found for part in divided(group, classes, members, waiting[group.name], probed)]


def _waiting(past: History) -> list[str]:
    begun = {row.evaluation for row in past.full} | past.smoked_out
    return [name for name in past.kinds if name not in begun]


def classes(challenge: Challenge, past: History, known: Catalogue, planned: Collection[str]) -> tuple[NeedClass, ...]:
    """The classes of measured need of each kind of which somebody was measured who waits.

    Args:
        challenge: for its limits.
        past: the phase's history.
        known: the machine types that attempts ran on, and those that are planned with.
        planned: the latter, by name.
    """
    measured = measured_of(past.attempts, known.offers, challenge.limits.cpus)
    waiting, out = _waiting(past), past.smoked_out
    found: list[NeedClass] = []
    for kind in sorted({past.kinds[name] for name in waiting if name in measured}):
        need = requirement(challenge, kind)
        fitting = {
            name: offer
            for name in planned
            if (offer := known.offers[name]).cpus >= need.cpus
            and offer.memory >= need.memory_bytes
            and offer.gpus >= need.gpus
        }
        of_kind = [each for name, each in measured.items() if past.kinds.get(name) == kind and name not in out]
        found += classes_of(kind, fitting, of_kind, gpus=need.gpus, cpus=challenge.limits.cpus)
    return tuple(found)


def spent_aside(past: History, catalogue: Catalogue, now: datetime) -> tuple[float, float]:
    """Machine hours and US dollars of probes so far, and of smoke runs that stand aside."""
    smoked = [row for row in past.attempts if past.smoked_first and row.smoke]
    boots = {name: offer.boot_of_each_hours for name, offer in catalogue.offers.items()}
    hours = [
        (row.machine_type, seconds_taken(row, now) / 3600 + boots.get(row.machine_type, 0.0))
        for row in (*past.aside, *smoked)
    ]
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
            outgrown=row.verdict is Verdict.GPU_OUT_OF_MEMORY,
        )
        for row in past.full
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
