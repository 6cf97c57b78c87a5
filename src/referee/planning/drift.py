"""Do evaluations take longer, or shorter, than those that the forecast rests on? Announced once it is beyond chance.

Under the law of the earlier runtimes, the cumulative hazard that an evaluation has passed through is exponential. If
runtimes stretch, fewer end than the hazard says. The running sum of log likelihood ratios (CUSUM: Page, Biometrika 41
(1954) 100), in order of start, also counts those that still run, and its threshold bounds the false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from referee.planning.runtime import Law, Runtimes

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drift:
    """That runtimes changed.

    Attributes:
        direction: how later evaluations differ from the earlier ones.
        since: place in the order of start from which on they seem to differ.
        factor: estimated ratio of the hazards' times: 1.3 is about 30% longer.
    """

    direction: Literal["longer", "shorter"]
    since: int
    factor: float

    @property
    def sentence(self) -> str:
        """For status, report and log."""
        return (
            f"Evaluations take {self.direction} than those that the forecast rested on, by a factor of about"
            f" {self.factor:.2f} since number {self.since + 1}: the forecast is made anew from the later ones."
        )


def hazard(law: Law, hours: Floats, limit_hours: float) -> Floats:
    """Cumulative hazard of the law at these ages; being killed at the limit is not an event but an end of watching."""
    below = law.hours < limit_hours
    times, mass = law.hours[below], law.mass[below]
    survival = np.maximum(1.0 - np.concatenate([[0.0], np.cumsum(mass)[:-1]]), 1e-12)
    # The law is a ladder: in the middle of a step its hazard is finite, also at the last one.
    middle = np.maximum(survival - mass / 2, 0.25 / max(law.started, 1))
    cumulative = -np.log(middle)
    return np.asarray(np.interp(np.minimum(hours, limit_hours), np.append(0.0, times), np.append(0.0, cumulative)))


def detect_drift(
    earlier: Law, later: Runtimes, *, stretch: float = 1.5, false_alarms: float = 0.01, expected: int = 4_200
) -> Drift | None:
    """Whether evaluations that started later differ from those of which `earlier` is the law.

    Args:
        earlier: the law that the forecast rests on.
        later: evaluations in the order of their start, ended and running.
        stretch: the change of time that is to be found soonest; smaller ones are found later.
        false_alarms: probability of an alarm within `expected` evaluations without any change.
        expected: evaluations of the whole stratum.
    """
    passed = hazard(earlier, later.hours, later.limit_hours)
    over = later.ended & (later.hours < later.limit_hours)
    # What is not known of the earlier law: its hazard has a relative error of about this, which is no drift.
    error = 2.0 / earlier.effective**0.5
    threshold = math.log(expected / false_alarms)
    found: list[tuple[float, Drift]] = []
    for direction, ratio in (("longer", 1 / stretch), ("shorter", stretch)):
        allowance = 1 + error if direction == "shorter" else 1 / (1 + error)
        score = over * math.log(ratio) - (ratio - 1) * passed * allowance
        total = np.concatenate([[0.0], np.cumsum(score)])
        rise = total - np.minimum.accumulate(total)
        if rise.size and rise.max() > threshold:
            alarm = int(rise.argmax())
            since = int(total[: alarm + 1].argmin())
            events = float(over[since:alarm].sum())
            factor = float(passed[since:alarm].sum()) / max(events, 0.5)
            chosen: Literal["longer", "shorter"] = "longer" if direction == "longer" else "shorter"
            found.append((float(rise.max()), Drift(chosen, since, factor)))
    return max(found, key=lambda each: each[0])[1] if found else None
