"""What machines cost over their lives, and into what the money went: attempts, and the waste apart. Pure.

At each moment of a machine's life its price is shared evenly by the attempts on it at that moment; what no attempt is
there for is waste: before the first one (boot, and the pull of the worker's image, which cannot be told apart from
outside), between two, and after the last. Of an attempt's own time, preparation (staging, unpacking) stands apart, and
all of it is lost if the host's fault ended it. The parts add up to the whole, exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise

from referee.challenge import MachineType
from referee.engines.machine_lives import MachineLife
from referee.ledger.queries import AttemptRow
from referee.verdicts import Blame, Verdict, blame

_MICROSECOND = timedelta(microseconds=1)
_HOUR = Fraction(3_600_000_000)
_SIX_PLACES = Decimal("0.000001")


class Use(StrEnum):
    """What a machine's time was for."""

    RUN = "run"
    STAGING = "staging"
    BOOT = "boot and pull"
    IDLE = "idle between"
    TAIL = "idle tail"
    LOST = "lost to the host"


@dataclass(frozen=True, slots=True)
class BillOfType:
    """One machine type's hours by use, and in total, with their cost at its price."""

    machine_type: str
    hours: Mapping[Use, Fraction]
    total: Fraction
    usd: Decimal | None


@dataclass(frozen=True, slots=True)
class MachineBill:
    """Machine hours and money. Hours are exact fractions; money is rounded to a millionth of a dollar at the end.

    Attributes:
        hours: by machine type and use.
        by_attempt: by machine type and attempt, of `RUN`, `STAGING` and `LOST`.
        prices: of each machine type, for an hour; None where the challenge gives none.
    """

    hours: Mapping[tuple[str, Use], Fraction]
    by_attempt: Mapping[tuple[str, str], Fraction]
    prices: Mapping[str, Decimal | None] = field(default_factory=dict)

    def usd(self, machine_type: str, hours: Fraction) -> Decimal | None:
        """What hours of a machine type cost."""
        price = self.prices.get(machine_type)
        if price is None:
            return None
        exact = Fraction(price) * hours
        return (Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(_SIX_PLACES)

    @property
    def uses(self) -> list[Use]:
        """What there was time for, in `Use`'s order."""
        return [use for use in Use if any(use is other for _, other in self.hours)]

    def rows(self) -> list[BillOfType]:
        """A row for each machine type, the dearest first."""
        found = []
        for kind in {kind for kind, _ in self.hours}:
            hours = {use: self.hours.get((kind, use), Fraction(0)) for use in Use}
            total = sum(hours.values(), Fraction(0))
            found.append(BillOfType(kind, hours, total, self.usd(kind, total)))
        return sorted(found, key=lambda row: (-(row.usd or 0), -row.total, row.machine_type))

    def usd_of(self, use: Use | None = None) -> Decimal | None:
        """What went into a use, or all of it, on all types; None if a type that was used has no price."""
        costs = [self.usd(kind, hours) for (kind, other), hours in self.hours.items() if use in {None, other}]
        return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))

    def dearest(self, count: int) -> list[tuple[str, Fraction, Decimal]]:
        """The submissions whose attempts took most: name, hours, money; of types that have a price."""
        hours: dict[str, Fraction] = defaultdict(Fraction)
        costs: dict[str, Decimal] = defaultdict(Decimal)
        for (kind, name), taken in self.by_submission().items():
            cost = self.usd(kind, taken)
            hours[name] += taken
            costs[name] += cost or 0
        return sorted(((name, hours[name], costs[name]) for name in hours), key=lambda row: (-row[2], -row[1], row[0]))[
            :count
        ]

    def by_submission(self) -> dict[tuple[str, str], Fraction]:
        """By machine type and submission, what its attempts took."""
        found: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
        for (machine_type, attempt), hours in self.by_attempt.items():
            found[machine_type, attempt.partition(".")[0]] += hours
        return dict(found)


@dataclass(frozen=True, slots=True)
class _Stay:
    """An attempt on a machine, in microseconds since the machine's launch; `ready` is when its container started."""

    attempt: str
    begin: int
    ready: int
    end: int
    lost: bool


def machine_bill(
    lives: Sequence[MachineLife], attempts: Sequence[AttemptRow], machines: Mapping[str, MachineType]
) -> MachineBill:
    """The bill of these machines.

    Args:
        lives: of all machines, each once.
        attempts: on them, by node; one that ended without telling when is taken to have lasted from its submission to
            the machine's end.
        machines: for their prices.
    """
    on: dict[str, list[AttemptRow]] = defaultdict(list)
    for row in attempts:
        if row.node is not None and row.verdict is not Verdict.DUPLICATE:
            on[row.node].append(row)
    hours: dict[tuple[str, Use], Fraction] = defaultdict(Fraction)
    by_attempt: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for life in lives:
        length = _between(life.launched_at, _end(life, on[life.node]))
        stays = [stay for row in on[life.node] if (stay := _stay(life, length, row)) is not None]
        for use, attempt, share in _shares(length, stays):
            hours[life.machine_type, use] += share / _HOUR
            if attempt:
                by_attempt[life.machine_type, attempt] += share / _HOUR
    prices = {name: machine.price for name, machine in machines.items()}
    return MachineBill(dict(hours), dict(by_attempt), prices)


def _end(life: MachineLife, rows: Sequence[AttemptRow]) -> datetime:
    """When it ended; if nobody saw that, when it was last known to be there."""
    if not life.end_unknown:
        return life.seen_at
    return max([life.seen_at, *(row.ended_at for row in rows if row.ended_at is not None)])


def _between(begin: datetime, end: datetime) -> int:
    return max(0, (end - begin) // _MICROSECOND)


def _stay(life: MachineLife, length: int, row: AttemptRow) -> _Stay | None:
    begin = min(length, _between(life.launched_at, row.started_at or row.submitted_at or row.planned_at))
    end = length if row.ended_at is None else min(length, _between(life.launched_at, row.ended_at))
    if end <= begin:
        return None
    preparation = timedelta(seconds=row.measurements.preparation_seconds) if row.measurements else timedelta()
    ready = min(end, begin + preparation // _MICROSECOND)
    lost = row.verdict is not None and blame(row.verdict) is Blame.HOST
    return _Stay(row.attempt, begin, ready, end, lost)


def _shares(length: int, stays: Sequence[_Stay]) -> list[tuple[Use, str, Fraction]]:
    """A machine's time in microseconds, cut where anything begins or ends."""
    marks = sorted({0, length} | {mark for stay in stays for mark in (stay.begin, stay.ready, stay.end)})
    first, last = min((s.begin for s in stays), default=length), max((s.end for s in stays), default=length)
    found: list[tuple[Use, str, Fraction]] = []
    for begin, end in pairwise(marks):
        here = [stay for stay in stays if stay.begin <= begin < stay.end]
        if not here:
            use = Use.BOOT if begin < first else Use.TAIL if begin >= last else Use.IDLE
            found.append((use, "", Fraction(end - begin)))
        for stay in here:
            use = Use.LOST if stay.lost else Use.STAGING if begin < stay.ready else Use.RUN
            found.append((use, stay.attempt, Fraction(end - begin, len(here))))
    return found
