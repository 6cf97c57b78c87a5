"""What the operator ordered of a campaign: which evaluations, on which machines, in which order, within which money.

All of it is pure: the controller asks here what it may dispatch, and does it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol, TypeVar

from referee.challenge import MachineType, SmokeChoice
from referee.ledger.queries import AttemptRow, SubmissionRow
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
        shares: by kind of submission, how many of its evaluations go to each machine type.
        machines: at most so many attempts side by side on each machine type; one that is not named is not bounded.
        since: attempts that were planned before are not part of the shares.
        budget_usd: nothing is started that could, at its limit of time, make the whole phase cost more.
        aside_usd: what was spent on the phase beside its official attempts, on probes.
    """

    only: frozenset[str] | None = None
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    machines: Mapping[str, int] = field(default_factory=dict)
    since: datetime | None = None
    budget_usd: Decimal | None = None
    aside_usd: Decimal = Decimal(0)

    def wants(self, evaluation: str) -> bool:
        """Whether the evaluation is to be run now."""
        return self.only is None or evaluation in self.only

    def room(self, free: Mapping[str, int], open_attempts: Mapping[str, int]) -> dict[str, int]:
        """How many more attempts may be started on each machine type, of what the engine would take."""
        return {
            name: min(count, max(self.machines[name] - open_attempts.get(name, 0), 0))
            if name in self.machines
            else count
            for name, count in free.items()
        }

    def among(
        self, kind: str, demand: Demand, used: Mapping[tuple[str, str], int], room: Mapping[str, int]
    ) -> Collection[str] | None:
        """The machine types that an evaluation's next attempt may go to; None: any.

        The one of which the plan has the largest share left, of those with room now. What the last attempt showed to be
        needed (more GPU memory, the reference type) wins over the plan.
        """
        shares = self.shares.get(kind)
        if not shares or demand is not Demand.ANY:
            return None
        left = {name: 1 - used.get((kind, name), 0) / count for name, count in shares.items() if count}
        open_to = [name for name in left if left[name] > 0] or list(left)
        free = [name for name in open_to if room.get(name, 0) > 0] or open_to
        return {max(free, key=lambda name: (left[name], name))}


def used_shares(
    attempts: Sequence[AttemptRow], kinds: Mapping[str, str], since: datetime | None
) -> Counter[tuple[str, str]]:
    """How many evaluations of each kind went to each machine type, by their first full attempt since then.

    Args:
        attempts: of the phase, in the order in which they were planned.
        kinds: of each evaluation.
        since: earlier attempts are left out.
    """
    first: dict[str, str] = {}
    for row in attempts:
        if not row.smoke and (since is None or row.planned_at >= since):
            first.setdefault(row.evaluation, row.machine_type)
    return Counter((kinds[evaluation], name) for evaluation, name in first.items() if evaluation in kinds)


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


def originals(rows: Iterable[_Image]) -> dict[str, str]:
    """For each evaluation the one that is run for all of the same image and kind: one that has begun, or the first."""
    first: dict[tuple[str, str], str] = {}
    return {
        row.evaluation: first.setdefault((row.image, row.submission_kind), row.evaluation)
        for row in sorted(rows, key=lambda row: (not row.attempts, row.evaluation))
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
