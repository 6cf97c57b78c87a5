"""While it runs: is the deadline or the budget in danger, why, and what is proposed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from referee.challenge import SPOT
from referee.planning.drift import Drift
from referee.planning.forecast import Forecast
from referee.units import format_hours


@dataclass(frozen=True, slots=True)
class Advice:
    """One warning, with the change that is proposed; nothing is changed or spent without the operator."""

    danger: Literal["deadline", "budget", "drift"]
    sentence: str
    proposal: str


def _faster(machines: Mapping[str, int], more: Mapping[str, int]) -> str:
    """What would make it end sooner: more machines, and none that are taken away."""
    added = ", ".join(f"{number} {name}" for name, number in more.items() if number)
    said = f"Add {added}." if added else "Move the deadline."
    if any(name.endswith(SPOT) for name in machines):
        said += " Run what waits on demand instead of on spot capacity: `referee plan` without --spot."
    return said


def advise(
    seen: Forecast,
    machines: Mapping[str, int],
    *,
    deadline_hours: float | None = None,
    budget_usd: float | None = None,
    confidence: float = 0.95,
    drift: Drift | None = None,
) -> list[Advice]:
    """What the operator should know now; empty if all is well.

    Args:
        seen: the forecast as it stands.
        machines: by pool, as they run now.
        deadline_hours: from now.
        budget_usd: for the whole campaign, with what is spent.
        confidence: with which deadline and budget are to be kept.
        drift: if runtimes changed.
    """
    said = []
    if drift is not None:
        said.append(Advice("drift", drift.sentence, "Look at the last evaluations and their nodes; plan anew."))
    if deadline_hours is not None and seen.probability_of_end_by(deadline_hours) < confidence:
        late = float(np.quantile(seen.ends, confidence))
        factor = late / deadline_hours if deadline_hours > 0 else math.inf
        more = {name: math.ceil(count * factor) - count for name, count in machines.items()} if factor < 100 else {}
        said.append(
            Advice(
                "deadline",
                f"The deadline is met with a probability of {seen.probability_of_end_by(deadline_hours):.0%} only"
                f" ({confidence:.0%} was asked for); it may end {format_hours(late - deadline_hours)} late.",
                _faster(machines, more),
            )
        )
    if budget_usd is not None and seen.probability_of_cost_within(budget_usd) < confidence:
        needed = float(np.quantile(seen.costs, confidence))
        said.append(
            Advice(
                "budget",
                f"The budget of ${budget_usd:,.0f} holds with a probability of"
                f" {seen.probability_of_cost_within(budget_usd):.0%} only; ${needed:,.0f} would.",
                "Raise the budget, move evaluations to a cheaper machine type, or give up retries that are not owed.",
            )
        )
    return said
