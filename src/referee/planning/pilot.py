"""Which evaluations are run first, so that what they show holds for all: a random sample from every kind.

DFDC's first estimates came from early, larger-than-average submissions. A pilot is drawn at random within each stratum,
whatever the order of arrival; its attempts are the official first attempts of their submissions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from referee.errors import ConfigurationError
from referee.planning.interval import Part

Floats = NDArray[np.float64]

# Fewer of a kind say little of how skewed its runtimes are, and the end waits for the slowest kind.
LEAST_OF_A_KIND = 20
# So many of a kind run a few items on every machine type: a spread of 0.25 in their speeds leaves 7% on the mean.
PROBES_OF_A_KIND = 12
_FOLDS = 10


def pilot_count(size: int, *, fraction: float | None = None, count: int | None = None) -> int:
    """How many evaluations the operator asked for, by fraction or count.

    Raises:
        ConfigurationError: if neither or both are given, or there are not that many.
    """
    if (fraction is None) == (count is None):
        raise ConfigurationError("A pilot has a fraction or a count.", hint="Write --fraction 2% or --count 80.")
    if not size:
        raise ConfigurationError(
            "No evaluation is left for a pilot: every one has started or fits no machine type.",
            hint="Plan with what has run: `referee plan`.",
        )
    wanted = count if count is not None else math.ceil(size * (fraction or 0.0))
    if not 1 <= wanted <= size:
        raise ConfigurationError(f"A pilot of {wanted} of {size} is not possible.", hint=f"Choose 1 to {size}.")
    return wanted


def allocate(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """How many of each stratum: in proportion to its size, `LEAST_OF_A_KIND` where the count allows, at least one."""
    least = {name: min(size, LEAST_OF_A_KIND, max(count // max(len(sizes), 1), 1)) for name, size in sizes.items()}
    total = sum(sizes.values())
    ideal = {name: max(least[name], size * count / total) for name, size in sizes.items()}
    above = {name: ideal[name] - least[name] for name in sizes}
    room = max(count - sum(least.values()), 0)
    scale = room / sum(above.values()) if sum(above.values()) > 0 else 0.0
    shares = {name: least[name] + above[name] * min(scale, 1.0) for name in sizes}
    result = {name: min(int(shares[name]), sizes[name]) for name in sizes}
    by_remainder = sorted(sizes, key=lambda name: (int(shares[name]) - shares[name], name))
    for name in (by_remainder * count)[: max(count - sum(result.values()), 0) * len(sizes)]:
        if sum(result.values()) < count and result[name] < sizes[name]:
            result[name] += 1
    return result


def in_bands(seconds: Mapping[str, float | None], bands: int = 4) -> dict[str, list[str]]:
    """Members of a stratum in bands of equal size by a known length, such as the public runtime; the unknown apart.

    A sample in proportion from each band is a random sample of the stratum that is less off by chance.
    """
    known = sorted((name for name, value in seconds.items() if value is not None), key=lambda n: (seconds[n] or 0.0, n))
    cut = {
        f"band {place + 1}": known[place * len(known) // bands : (place + 1) * len(known) // bands]
        for place in range(bands)
    }
    cut["unknown"] = sorted(name for name, value in seconds.items() if value is None)
    return {name: members for name, members in cut.items() if members}


def draw_in_bands(seconds: Mapping[str, float | None], count: int, seed: int) -> list[str]:
    """`count` members of a stratum, drawn without replacement, in proportion from each band; the same for a seed."""
    bands = in_bands(seconds)
    generator = random.Random(f"{seed}:bands")  # noqa: S311 - no secret
    shuffled = [generator.sample(members, len(members)) for members in bands.values()]
    # Every member has its place among all; the lowest places are a sample in proportion, with chance for what is left.
    offsets = [generator.random() for _ in shuffled]
    places = [
        ((place + offset) / len(members), name)
        for members, offset in zip(shuffled, offsets, strict=True)
        for place, name in enumerate(members)
    ]
    return [name for _, name in sorted(places)[:count]]


def with_public_runtimes(hours: Floats, public: Floats, public_mean: float, size: int, weight: float = 1.0) -> Part:
    """A stratum's part of a total, with recorded public runtimes where they narrow it, and without where they do not.

    The regression estimator: the sample's mean, moved by what the public runtimes of the sample lack to those of all.
    It is used only if, cross-validated, its residuals vary less than the runtimes themselves.

    Args:
        hours: shape (n,): runtimes of the pilot.
        public: shape (n,): public runtimes of the same submissions.
        public_mean: mean of the public runtimes of the whole stratum.
        size: evaluations in the stratum.
        weight: what an hour adds to the total.
    """
    n = hours.size
    residuals, mean = hours - hours.mean(), float(hours.mean())
    if n >= 2 * _FOLDS and float(public.std()) > 0:
        fold = np.arange(n) % _FOLDS
        left_out = np.concatenate(
            [hours[fold == k] - _line(public[fold != k], hours[fold != k], public[fold == k]) for k in range(_FOLDS)]
        )
        without = np.concatenate([hours[fold == k] - hours[fold != k].mean() for k in range(_FOLDS)])
        if float((left_out**2).mean()) < float((without**2).mean()):
            # The cross-validated residuals, not the fitted ones: these are too small in a small sample.
            mean = float(_line(public, hours, np.array([public_mean]))[0])
            residuals = left_out - left_out.mean()
    variance = float((residuals**2).sum()) / max(n - 1, 1)
    return Part(size, weight, mean, variance / n, variance, float((residuals**3).mean()))


def _line(x: Floats, y: Floats, at: Floats) -> Floats:
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / max(float(((x - x.mean()) ** 2).sum()), 1e-300))
    return np.asarray(y.mean() + slope * (at - x.mean()))
