"""What the operator ordered of a campaign: which evaluations, on which machines, in which order, within which money.

All of it is pure: the controller asks here what it may dispatch, and does it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol, TypeVar

from referee.challenge import MachineType, SmokeChoice
from referee.ledger.queries import AttemptRow, SubmissionRow
from referee.planning.classes import Holding, Measured, NeedClass, class_of, gpu_bytes
from referee.policy import Demand
from referee.verdicts import Verdict

T = TypeVar("T")
_HOUR = Decimal(3600)
_PROBE_ITEMS = 4


@dataclass(frozen=True, slots=True)
class Orders:
    """What a campaign may do; without any, everything on whatever fits at least cost.

    Attributes:
        only: the evaluations to be run now (a pilot's); None: all.
        smoked: beside them, those of which the smoke run alone is wanted now.
        smoke_on: by kind of submission, the machine type of smoke runs; where it is not named, as for full runs.
        shares: by class of measured need or kind of submission, how many of its evaluations go to each machine type.
        classes: of measured need, into which the plan divided kinds.
        machines: at most so many attempts side by side on each machine type; one that is not named is not bounded.
        since: attempts that were planned before are not part of the shares.
        budget_usd: nothing is started that could, at its limit of time, make the whole phase cost more.
        aside_usd: what was spent on the phase beside its official attempts, on probes.
    """

    only: frozenset[str] | None = None
    smoked: frozenset[str] = frozenset()
    smoke_on: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    machines: Mapping[str, int] = field(default_factory=dict)
    since: datetime | None = None
    budget_usd: Decimal | None = None
    aside_usd: Decimal = Decimal(0)
    classes: tuple[NeedClass, ...] = ()

    def wants(self, evaluation: str, *, smoke: bool = False) -> bool:
        """Whether the evaluation is to be run now; with `smoke`, whether its smoke run is."""
        return self.only is None or evaluation in self.only or (smoke and evaluation in self.smoked)

    @property
    def names(self) -> frozenset[str]:
        """All machine types that are named."""
        return frozenset(self.machines).union(*self.shares.values())

    def room(self, free: Mapping[str, int], open_attempts: Mapping[str, int]) -> dict[str, int]:
        """How many more attempts may be started on each machine type, of what the engine would take."""
        return {
            name: min(count, max(self.machines[name] - open_attempts.get(name, 0), 0))
            if name in self.machines
            else count
            for name, count in free.items()
        }

    def among(
        self, group: str, demand: Demand, used: Mapping[tuple[str, str], int], room: Mapping[str, int]
    ) -> Collection[str] | None:
        """The machine types that an evaluation's next attempt may go to; None: any.

        The one of which the plan has the largest share left, of those with room now. What the last attempt showed to be
        needed (more GPU memory, the reference type) wins over the plan.

        Args:
            group: the evaluation's class of measured need, or its kind; who came into a class of which the plan had
                nobody may go to any type that is enough.
            demand: what the policy asks of the next machine.
            used: how many of each group went to each machine type.
            room: how many attempts each machine type takes now.
        """
        if demand is not Demand.ANY:
            return None
        shares = self.shares.get(group)
        if not shares:
            return next((each.machine_types for each in self.classes if each.name == group), None)
        left = {name: 1 - used.get((group, name), 0) / count for name, count in shares.items() if count}
        open_to = [name for name in left if left[name] > 0] or list(left)
        free = [name for name in open_to if room.get(name, 0) > 0] or open_to
        return {max(free, key=lambda name: (left[name], name))}


def measured_of(attempts: Iterable[AttemptRow], machines: Mapping[str, Holding], cpus: float) -> dict[str, Measured]:
    """What was measured of each evaluation, in its smoke runs; in its full runs, if it had no smoke run.

    Only one of the two, so that whoever has run in full is told apart by the same measure as who has not.

    Args:
        attempts: of the phase.
        machines: those that they ran on.
        cpus: the most that an attempt is granted.
    """
    told = [row for row in attempts if row.verdict in _TELLING and row.machine_type in machines]
    smoked = {row.evaluation for row in told if row.smoke}
    found: dict[str, Measured] = {}
    for row in told:
        if row.smoke or row.evaluation not in smoked:
            machine, before = machines[row.machine_type], found.get(row.evaluation, Measured())
            found[row.evaluation] = _with(before, row, gpu_bytes(machine), min(machine.cpus, cpus))
    return found


_TELLING = frozenset({Verdict.OK, Verdict.GPU_OUT_OF_MEMORY})


def _with(before: Measured, row: AttemptRow, memory_bytes: int, cpus: float) -> Measured:
    if row.verdict is Verdict.GPU_OUT_OF_MEMORY:
        return replace(before, outgrown_bytes=max(before.outgrown_bytes, memory_bytes))
    seen = row.measurements
    if seen is None:
        return before
    if cpus >= before.granted_cpus and seen.wall_seconds > 0:
        before = replace(before, cpus=seen.cpu_seconds / seen.wall_seconds, granted_cpus=cpus)
    return replace(
        before,
        gpu_memory_bytes=max(before.gpu_memory_bytes, seen.gpu_peak_memory_bytes or 0),
        held_bytes=min(before.held_bytes or memory_bytes, memory_bytes),
    )


def members_of(
    kinds: Mapping[str, str], measured: Mapping[str, Measured], classes: Sequence[NeedClass]
) -> dict[str, str]:
    """Of each evaluation its class of measured need, or its kind where it was not measured or there are none."""
    return {name: class_of(kind, measured.get(name), classes) for name, kind in kinds.items()}


def used_shares(
    attempts: Sequence[AttemptRow], groups: Mapping[str, str], since: datetime | None
) -> Counter[tuple[str, str]]:
    """How many evaluations of each class or kind went to each machine type, by their first full attempt since then.

    Args:
        attempts: of the phase, in the order in which they were planned.
        groups: of each evaluation its class or kind.
        since: earlier attempts are left out.
    """
    first: dict[str, str] = {}
    for row in attempts:
        if not row.smoke and (since is None or row.planned_at >= since):
            first.setdefault(row.evaluation, row.machine_type)
    return Counter((groups[evaluation], name) for evaluation, name in first.items() if evaluation in groups)


class Purse:
    """What a phase may still spend. What was started may cost its whole limit, and is never ended for the money's sake.

    To the limit come the machine's boot, as every attempt may need a fresh one, and the longest start-up on a node that
    was seen so far.

    Args:
        budget_usd: for the whole phase; None: no bound.
        attempts: of the phase, ended and running.
        machines: for their prices.
        limit: of an attempt's time, on a machine type of speed 1.
        aside_usd: what was spent on it otherwise.
    """

    def __init__(
        self,
        budget_usd: Decimal | None,
        attempts: Sequence[AttemptRow],
        machines: Mapping[str, MachineType],
        limit: timedelta,
        aside_usd: Decimal = Decimal(0),
    ) -> None:
        self._budget_usd, self._machines, self._limit = budget_usd, machines, limit
        started = (row.measurements.preparation_seconds for row in attempts if row.measurements is not None)
        self._start_up = timedelta(seconds=max(started, default=0.0))
        # Only a bounded purse needs to know; thousands of attempts are not added up for nothing.
        bounded = attempts if budget_usd is not None else ()
        self._committed_usd = aside_usd + sum(
            (_attempt_usd(row, machines, limit, self._start_up) for row in bounded), Decimal(0)
        )

    def pays(self, machine_type: str, wall_time_scale: float) -> bool:
        """Whether one more attempt can be paid for, whatever it takes; if so, its money is set aside."""
        if self._budget_usd is None:
            return True
        usd = most_usd(self._machines[machine_type], self._limit, wall_time_scale, self._start_up)
        if usd and self._committed_usd + usd > self._budget_usd:
            return False
        self._committed_usd += usd
        return True

    @property
    def empty(self) -> str:
        """Why nothing more is started."""
        return (
            f"Of the budget of ${self._budget_usd:,.2f}, ${self._committed_usd:,.2f} are spent; one more attempt might"
            " go beyond it. A plan with a larger budget lets it go on."
        )


def most_usd(
    machine: MachineType, limit: timedelta, wall_time_scale: float, start_up: timedelta = timedelta(0)
) -> Decimal:
    """What one attempt can cost at most: a boot, start-up on the node, and its whole limit."""
    around = start_up + (machine.boot or timedelta(0))
    return machine.price * Decimal(repr(limit.total_seconds() * wall_time_scale + around.total_seconds())) / _HOUR


def _attempt_usd(
    row: AttemptRow, machines: Mapping[str, MachineType], limit: timedelta, start_up: timedelta
) -> Decimal:
    # One that ended without telling its hours may have run as long as its limit; without a node no worker claimed it.
    machine = machines.get(row.machine_type)
    never_began = row.verdict is not None and row.node is None
    if machine is None or row.verdict is Verdict.DUPLICATE or never_began:
        return Decimal(0)
    if row.verdict is not None and row.started_at is not None and row.ended_at is not None:
        seconds = max((row.ended_at - row.started_at).total_seconds(), 0.0)  # a node's clock may have been set back
        return machine.price * Decimal(repr(seconds)) / _HOUR
    return most_usd(machine, limit, row.wall_time_scale, start_up)


class _Image(Protocol):
    """What tells whether two evaluations are of equal images: evaluations as the ledger has them, or to be."""

    @property
    def evaluation(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def submission_kind(self) -> str: ...
    @property
    def attempts(self) -> int: ...


def originals(rows: Iterable[_Image], wanted: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
    """For each evaluation the one that is run for all of the same image and kind.

    It is one that has begun, else one that is wanted now, else the first.
    """
    first: dict[tuple[str, str], str] = {}
    return {
        row.evaluation: first.setdefault((row.image, row.submission_kind), row.evaluation)
        for row in sorted(rows, key=lambda row: (not row.attempts, not wanted(row.evaluation), row.evaluation))
    }


def probe_items(smoke: SmokeChoice) -> int:
    """On how many files a submission is probed: those of the smoke run, so that this counts as a probe, too."""
    return smoke.items or _PROBE_ITEMS


def smoke_items(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The files of a smoke run: `count` of all, evenly spaced, always the same."""
    few = min(count, len(names))
    return tuple(names[place * len(names) // few] for place in range(few))


def dispatch_order(submissions: Sequence[SubmissionRow], order: str, seed: int) -> list[SubmissionRow]:
    """The order of dispatch: as imported, or at random within kinds, which take turns in proportion to their numbers.

    Longest first would end sooner but blinds the forecast: only at random do the first to end stand for the rest.
    """
    if order == "manifest":
        return list(submissions)
    generator = random.Random(seed)  # noqa: S311 - an order, not a secret
    placed: list[tuple[float, int, SubmissionRow]] = []
    for kind in sorted({row.kind for row in submissions}):
        stratum = sorted((row for row in submissions if row.kind == kind), key=lambda row: row.submission)
        generator.shuffle(stratum)
        placed += [((place + 0.5) / len(stratum), len(placed), row) for place, row in enumerate(stratum)]
    return [row for _, _, row in sorted(placed, key=lambda item: item[:2])]


def longest_first(waiting: Sequence[T], seconds: Callable[[T], float]) -> list[T]:
    """The last wave, of which nothing is left to be forecast: the longest first, so that no machine ends late alone."""
    return sorted(waiting, key=lambda each: -seconds(each))
