"""How often spot machines are taken away: what the operator believed before, corrected by what the ledger saw."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from referee.challenge import SPOT
from referee.ledger.queries import AttemptRow
from referee.planning.spot import LossRate
from referee.prospects.history import seconds_taken
from referee.verdicts import Verdict

# Both are how the end of a machine looks from outside: with notice, and without.
_TAKEN_AWAY = frozenset({Verdict.INTERRUPTED, Verdict.NODE_LOST})


def learned(believed: LossRate, attempts: Sequence[AttemptRow], now: datetime) -> LossRate:
    """The rate of losses after what the attempts on spot capacity have shown, ended and running."""
    on_spot = [row for row in attempts if row.machine_type.endswith(SPOT) and row.submitted_at is not None]
    hours = sum(seconds_taken(row, now) for row in on_spot) / 3600
    # Without a node it never began: what waited in vain for a machine lost none.
    lost = sum(row.verdict in _TAKEN_AWAY and row.node is not None for row in on_spot)
    return believed.after(lost, hours)
