"""While a campaign runs: when to look at its outlook again, and what of that the ledger keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from referee.challenge import Challenge
from referee.ledger import CampaignWarned, Event, ForecastMade, Ledger, queries
from referee.planning.advice import Advice
from referee.planning.money import dollars
from referee.prospects.outlook import Outlook, outlook

_STEP = 0.05
_LEAST = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look has shown: the outlook, and the warnings that are new."""

    outlook: Outlook
    warnings: tuple[Advice, ...]


class Watch:
    """Looks at a phase's outlook whenever a twentieth more of it has ended, but not more often than every ten seconds.

    Each look is recorded, and each danger when it first appears (again, if it had gone).
    """

    def __init__(self, challenge: Challenge, ledger: Ledger, phase: str, clock: Callable[[], datetime]) -> None:
        self._challenge, self._ledger, self._phase, self._clock = challenge, ledger, phase, clock
        self._last = clock()
        self._ended = queries.status(ledger, phase).done
        self._dangers: set[str] = set()

    def look(self) -> Look | None:
        """Look, if it is time; record what was seen. None if it is not time, or nothing can be said."""
        now = self._clock()
        status = queries.status(self._ledger, self._phase)
        step = max(math.ceil(_STEP * status.total), 1)
        if now - self._last < _LEAST or (status.done < self._ended + step and not self._dangers):
            return None
        self._last, self._ended = now, status.done
        seen = outlook(self._challenge, self._ledger, self._phase, now)
        if seen is None:
            return None
        fresh = tuple(advice for advice in seen.advice if advice.danger not in self._dangers)
        self._dangers = {advice.danger for advice in seen.advice}
        self._ledger.append([forecast_made(seen, "run"), *(warned(self._phase, advice) for advice in fresh)])
        return Look(seen, fresh)


def forecast_made(seen: Outlook, moment: Literal["pilot", "run"]) -> ForecastMade:
    """The event that keeps a forecast."""
    expected = seen.forecast
    hours, cost = expected.hours, expected.cost
    low, mid, high = (dollars(max(usd, 0.0)) for usd in (cost.low, cost.mid, cost.high))
    usd: tuple[Decimal, Decimal, Decimal] = (low, mid, high)
    return ForecastMade(
        phase=seen.phase,
        moment=moment,
        size=expected.size,
        started=expected.started,
        ended=expected.ended,
        confidence=hours.confidence,
        hours=(hours.low, hours.mid, hours.high),
        usd=usd,
        ends=seen.ends,
    )


def warned(phase: str, advice: Advice) -> Event:
    """The event that keeps a warning."""
    return CampaignWarned(phase=phase, danger=advice.danger, sentence=advice.sentence, proposal=advice.proposal)
