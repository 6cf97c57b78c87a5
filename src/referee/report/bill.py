"""What the attempts cost: hours by machine type at the challenge's prices, and whose endings the money went into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from referee.challenge import MachineType
from referee.ledger.queries import AttemptRow
from referee.verdicts import Blame, Verdict, blame

_HOUR = Decimal(3600)
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class BillRow:
    """One machine type's part.

    Attributes:
        attempts: that ended on it.
        hours: of wall time, from the worker's start to its end, all attempts together.
        price_usd: for an hour; None if the challenge does not name this machine type.
        cost_usd: hours times price, to the cent; None without a price.
    """

    machine_type: str
    attempts: int
    hours: Decimal
    price_usd: Decimal | None
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Bill:
    """All machine types together.

    Attributes:
        rows: by machine type, the longest hours first.
        hours: in total.
        cost_usd: in total; None if a machine type that was used has no price.
        hours_by_blame: hours of attempts by whose doing their end was; `none` is what gave valid results.
        unmeasured: attempts that ended without a known start and end, such as those of lost nodes, which are not in
            the hours.
    """

    rows: tuple[BillRow, ...]
    hours: Decimal
    cost_usd: Decimal | None
    hours_by_blame: dict[Blame, Decimal]
    unmeasured: int


def bill(attempts: Sequence[AttemptRow], machines: Mapping[str, MachineType]) -> Bill:
    """The bill of ended attempts. A started hour is not rounded up: clouds bill by the second."""
    seconds: dict[str, Decimal] = {}
    counts: dict[str, int] = {}
    by_blame: dict[Blame, Decimal] = {}
    unmeasured = 0
    for attempt in attempts:
        if attempt.verdict in {None, Verdict.DUPLICATE}:
            continue
        if attempt.started_at is None or attempt.ended_at is None:
            unmeasured += 1
            continue
        spent = attempt.ended_at - attempt.started_at
        length = Decimal(spent.days * 86_400 + spent.seconds) + Decimal(spent.microseconds) / 1_000_000
        kind = attempt.machine_type
        seconds[kind] = seconds.get(kind, Decimal(0)) + length
        counts[kind] = counts.get(kind, 0) + 1
        whose = blame(attempt.verdict) if attempt.verdict else Blame.NONE
        by_blame[whose] = by_blame.get(whose, Decimal(0)) + length / _HOUR
    rows = [
        _row(kind, counts[kind], seconds[kind] / _HOUR, machines.get(kind))
        for kind in sorted(seconds, key=lambda kind: (-seconds[kind], kind))
    ]
    costs = [row.cost_usd for row in rows]
    return Bill(
        rows=tuple(rows),
        hours=sum((row.hours for row in rows), Decimal(0)),
        cost_usd=None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0)),
        hours_by_blame={whose: by_blame[whose] for whose in Blame if whose in by_blame},
        unmeasured=unmeasured,
    )


def _row(kind: str, attempts: int, hours: Decimal, machine: MachineType | None) -> BillRow:
    price = machine.price if machine else None
    return BillRow(kind, attempts, hours, price, None if price is None else (hours * price).quantize(_CENT))
