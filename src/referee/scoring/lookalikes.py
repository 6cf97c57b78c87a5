"""Look-alikes: submissions of different teams that are the same, or suspiciously alike. A list for the operator.

Nothing follows from it by itself. All good detectors agree about easy items, so raw correlation accuses everybody:
what the board has in common is taken out first, and what is left is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np

from referee.scoring.metric import Floats

_CLIP = 1e-6  # logits of surer predictions would outweigh everything else


class Likeness(StrEnum):
    """In what two submissions are alike."""

    IMAGE = "identical_image"
    PREDICTIONS = "identical_predictions"
    CORRELATED = "correlated_predictions"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two submissions of different teams.

    Attributes:
        one: blind id, the smaller of the two.
        other: blind id.
        likeness: the strongest that was found.
        correlation: of what is left of their logits without the board's common part; 1.0 for identical ones.
    """

    one: str
    other: str
    likeness: Likeness
    correlation: float


@dataclass(frozen=True, slots=True)
class Suspect:
    """What is compared of a submission."""

    submission: str
    team: str
    image: str
    predictions_digest: str


def look_alikes(
    suspects: Sequence[Suspect], predictions: Floats | None = None, *, threshold: float = 0.9, components: int = 2
) -> tuple[Pair, ...]:
    """Pairs across teams, the strongest likeness first. Pairs within a team are its own business.

    Args:
        suspects: the submissions.
        predictions: P(fake), in their order; shape (submissions, items); None compares digests alone.
        threshold: correlation of residuals from which a pair is listed.
        components: how many of the board's common components are taken out besides the items' means.
    """
    found: dict[tuple[str, str], Pair] = {}
    for likeness, key in ((Likeness.IMAGE, "image"), (Likeness.PREDICTIONS, "predictions_digest")):
        for one, other in _same(suspects, key):
            found.setdefault((one, other), Pair(one, other, likeness, 1.0))
    if predictions is not None and len(suspects) > components + 2:
        correlation = residual_correlation(predictions, components)
        for first, second in zip(*np.nonzero(np.triu(correlation >= threshold, 1)), strict=True):
            a, b = suspects[first], suspects[second]
            if a.team != b.team:
                one, other = sorted((a.submission, b.submission))
                strength = round(float(correlation[first, second]), 6)
                found.setdefault((one, other), Pair(one, other, Likeness.CORRELATED, strength))
    ranking = list(Likeness)
    return tuple(sorted(found.values(), key=lambda p: (ranking.index(p.likeness), -p.correlation, p.one, p.other)))


def residual_correlation(predictions: Floats, components: int = 2) -> Floats:
    """Correlation of logits without what all have in common; shape (submissions, submissions).

    Each submission's logits are brought to mean 0 and spread 1, the items' medians over the board are taken out in
    proportion, and then the strongest `components` of what is left, in each of which a pair alone weighs little.
    A submission that never varies correlates with nobody.
    """
    clipped = np.clip(predictions, _CLIP, 1 - _CLIP)
    logits = np.log(clipped) - np.log1p(-clipped)
    logits -= logits.mean(axis=1, keepdims=True)
    spread = logits.std(axis=1, keepdims=True)
    logits /= np.where(spread > 1e-9, spread, 1.0)
    common = np.median(logits, axis=0)
    size = float(common @ common)
    residual = logits - np.outer(logits @ common / size, common) if size > 0 else logits
    residual = _without_components(residual, components)
    length = np.linalg.norm(residual, axis=1, keepdims=True)
    # A residual of rounding alone, as of a constant submission, has no direction.
    unit = np.where(length > 1e-6 * np.sqrt(residual.shape[1]), residual / np.where(length > 0, length, 1.0), 0.0)
    correlation: Floats = unit @ unit.T
    return correlation


def _without_components(residual: Floats, components: int) -> Floats:
    """Take out the strongest components unless a few submissions make them: these are what is looked for."""
    if components == 0:
        return residual
    values, vectors = np.linalg.eigh(residual @ residual.T)
    shared = []
    for place in np.argsort(values)[::-1][:components]:
        weights = vectors[:, place]
        carriers = 1.0 / np.sum(weights**4)  # the participation ratio: how many submissions make up the component
        if carriers >= max(4.0, 0.1 * len(residual)):
            shared.append(weights)
    if not shared:
        return residual
    basis = np.stack(shared, axis=1)
    return residual - basis @ (basis.T @ residual)


def _same(suspects: Sequence[Suspect], key: str) -> Iterator[tuple[str, str]]:
    groups: dict[str, list[Suspect]] = {}
    for suspect in suspects:
        groups.setdefault(getattr(suspect, key), []).append(suspect)
    for members in groups.values():
        for a, b in combinations(members, 2):
            if a.team != b.team:
                one, other = sorted((a.submission, b.submission))
                yield one, other
