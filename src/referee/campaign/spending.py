"""What a fleet's machines cost beside the attempts on them: boot, idle between, idle tail. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from referee.challenge import MachineType
from referee.engines.machine_lives import MachineLife
from referee.ledger.queries import AttemptRow

_HOUR = Decimal(3600)


def beside_usd(
    lives: Sequence[MachineLife],
    attempts: Sequence[AttemptRow],
    machines: Mapping[str, MachineType],
    elsewhere: Collection[str] = (),
) -> Decimal:
    """What was spent on machines while no attempt of these was there.

    A machine that is up counts until the last end of an attempt there: what has begun since then is set aside whole.

    Args:
        lives: of the fleet's machines.
        attempts: of one phase.
        machines: for their prices.
        elsewhere: machines that other phases had; they count here only if this one had them as well.
    """
    stays: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
    for row in attempts:
        if row.node is not None and row.started_at is not None and row.ended_at is not None:
            stays[row.node].append((row.started_at, row.ended_at))
    spent = Decimal(0)
    for life in lives:
        here = stays.get(life.node, [])
        machine = machines.get(life.machine_type)
        if machine is None or (not here and (life.node in elsewhere or not life.gone)):
            continue
        last = max((end for _, end in here), default=life.seen_at)
        until = max(life.seen_at, last) if life.gone else last
        idle = max(until - life.launched_at - _covered(here), timedelta(0))
        spent += machine.price * Decimal(repr(idle.total_seconds())) / _HOUR
    return spent


def _covered(stays: Sequence[tuple[datetime, datetime]]) -> timedelta:
    """How long at least one of them was there."""
    total, reached = timedelta(0), datetime.min.replace(tzinfo=UTC)
    for begin, end in sorted(stays):
        total += max(end - max(begin, reached), timedelta(0))
        reached = max(reached, end)
    return total
