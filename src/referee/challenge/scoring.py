"""What results are judged by: the metric, the reproduction check, the uncertainty that is told."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from referee.challenge.section import Frozen


class MetricChoice(Frozen):
    """The primary metric, its parameters, and secondary metrics that are shown beside it."""

    name: str = "log_loss"
    epsilon: float = Field(default=1e-15, gt=0, lt=0.5)
    secondary: tuple[str, ...] = ()

    def grows_into(self, other: MetricChoice) -> bool:
        """Whether `other` is this choice, or this with more secondary metrics: no score that stands changes by it."""
        same = (self.name, self.epsilon) == (other.name, other.epsilon)
        return same and set(self.secondary) <= set(other.secondary)


class ReproductionChoice(Frozen):
    """When a re-run on a public phase counts as the recorded one; to be fixed before it is made.

    Attributes:
        phase: the public phase that decides; by default the last public one in the file.
        tolerance: difference of scores that is still the same.
        prediction_tolerance: difference of one prediction that is float noise.
        decimals: with how many decimals the recorded scores were published.
        required: a submission that does not reproduce is not run on private phases, unless it is admitted by a ruling.
    """

    phase: str | None = None
    tolerance: float = Field(default=1e-3, ge=0)
    prediction_tolerance: float = Field(default=1e-6, ge=0)
    decimals: int = Field(default=5, ge=0, le=17)
    required: bool = False


class Reduction(StrEnum):
    """How a team's finals become the team's one entry; declared in advance."""

    BEST = "best"
    LAST = "last"
    MEAN = "mean"


class UncertaintyChoice(Frozen):
    """How uncertainty is told; to be fixed before anything is scored.

    Attributes:
        replicates: bootstrap replicates.
        seed: of the draws.
        level: of score intervals, rank sets and rank ranges.
        tie_error: family-wise error of the tie groups.
        cluster_column: metadata column whose values are drawn as a whole; None draws items singly.
        teams: how a team's finals become its one entry; None leaves each submission an entry of its own.
        prize_places: boundaries that are looked at, each behind this many entries.
    """

    replicates: int = Field(default=10_000, ge=100)
    seed: int = 0
    level: float = Field(default=0.9, gt=0, lt=1)
    tie_error: float = Field(default=0.05, gt=0, lt=1)
    cluster_column: str | None = None
    teams: Reduction | None = None
    prize_places: tuple[int, ...] = (1,)
