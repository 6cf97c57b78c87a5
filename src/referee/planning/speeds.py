"""How fast each machine type is for each submission, from probes: a few items of some submissions on every type.

A probe is compared with a probe of the same submission, on the same items: what the submission is cancels, and start-up
counts on both sides. Two samples of different submissions would need hundreds to say as much.

Source: James and Stein (1961) in the empirical form of Efron and Morris, J. Amer. Statist. Assoc. 68 (1973) 117: what
was measured of one submission is drawn towards the mean of all by as much as it is uncertain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

# Fewer pairs say nothing of how different submissions are.
LEAST_PAIRS = 3
# The same few items take so much longer or shorter when they are run again (relative standard deviation).
_RUN_TO_RUN = 0.05
# What a few items say of a speed, they say of all items only so well.
_FEW_ITEMS = 0.03


@dataclass(frozen=True, slots=True)
class Probe:
    """A few items of one submission on one machine type.

    Attributes:
        evaluation: the official evaluation of the same submission.
        kind: of submission, such as `cpu` or `gpu`.
        machine_type: where they ran.
        seconds: the container's own time.
    """

    evaluation: str
    kind: str
    machine_type: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How many times longer evaluations of a kind take on a machine type than on another.

    Attributes:
        factor: of all of them, where each counts the same.
        error: standard error of the factor.
        spread: standard deviation of the logarithm among submissions, what runs differ by taken out.
        each: by evaluation that was probed on both: its own factor, and the standard error of that.
    """

    factor: float
    error: float
    spread: float
    each: Mapping[str, tuple[float, float]]


def speeds(probes: Iterable[Probe], kind: str) -> dict[tuple[str, str], Speed]:
    """For each pair of machine types on which at least `LEAST_PAIRS` submissions of a kind were probed: from, to."""
    seconds: dict[str, dict[str, float]] = {}
    for probe in probes:
        if probe.kind == kind and probe.seconds > 0:
            seconds.setdefault(probe.machine_type, {})[probe.evaluation] = probe.seconds
    found = {}
    for here, those in seconds.items():
        for there, others in seconds.items():
            pairs = {name: others[name] / those[name] for name in those if name in others}
            if here != there and len(pairs) >= LEAST_PAIRS:
                found[here, there] = _speed(pairs)
    return found


def _speed(ratios: Mapping[str, float]) -> Speed:
    logs = np.log(np.array(list(ratios.values())))
    n, mean = logs.size, float(logs.mean())
    squares = float(((logs - mean) ** 2).sum())
    noise = 2 * _RUN_TO_RUN**2  # both probes of a pair vary
    # The divisor of least mean squared error: with few pairs the spread is small, and everybody near the mean.
    between = max(squares / (n + 1) - noise, 0.0)
    trust = between / (between + noise)
    shrunk = mean + trust * (logs - mean)
    # Student's t for a normal quantile: errors are used as normal ones, and of three pairs little is known.
    of_mean = squares / (n - 1) / n * (float(special.stdtrit(n - 1, 0.95)) / 1.645) ** 2
    own = (trust * noise + (1 - trust) ** 2 * of_mean + _FEW_ITEMS**2) ** 0.5
    factors = np.exp(shrunk + between * (1 - trust) / 2)
    factor = float(factors.mean())
    return Speed(
        factor,
        factor * float(of_mean + _FEW_ITEMS**2) ** 0.5,
        between**0.5,
        {name: (float(each), float(each) * own) for name, each in zip(ratios, factors, strict=True)},
    )
