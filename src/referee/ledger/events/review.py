"""What is recorded once there are results: rulings, rejudgings, and what further runs showed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from referee.challenge import Frozen, MetricChoice
from referee.ledger.events.event import Digest, Event, FloatText, Name, Prose
from referee.rulings import Ruling
from referee.verdicts import Verdict


class SubmissionRuled(Event, kind="submission.ruled"):
    """The operator decided about a submission by hand (see `rulings`), and why."""

    submission: Name
    ruling: Ruling
    reason: Annotated[Prose, Field(min_length=1)]


class RejudgingStaged(Event, kind="rejudging.staged"):
    """A set of evaluations is judged again, without any effect before it is applied.

    Attributes:
        method: `rerun` makes new attempts (its series has the rejudging's name); `rescore` scores what there is.
        submissions: whose evaluations.
        selection: how they were chosen, in words.
        metric: the metrics that stand once it is applied.
        labels_digest: likewise the labels.
        before: digest of the phase's board (its JSON) when it was staged.
    """

    rejudging: Name
    phase: Name
    method: Literal["rerun", "rescore"]
    submissions: tuple[Name, ...] = Field(min_length=1)
    selection: Prose
    metric: MetricChoice
    labels_digest: Digest
    before: Digest


class RejudgingApplied(Event, kind="rejudging.applied"):
    """What was staged stands from here on. `before` and `after` are digests of the phase's board (its JSON)."""

    rejudging: Name
    reason: Annotated[Prose, Field(min_length=1)]
    before: Digest
    after: Digest


class RejudgingCancelled(Event, kind="rejudging.cancelled"):
    """What was staged is left aside for good."""

    rejudging: Name
    reason: Prose = ""


class SubmissionReproduced(Event, kind="submission.reproduced"):
    """What the reproduction check said of a submission on a phase; the last word counts (see scoring.reproduction).

    `tolerance` is the score difference that still counted as the same.
    """

    submission: Name
    phase: Name
    outcome: Name
    cause: Name
    explanation: Prose = ""
    recorded_score: FloatText | None = None
    rerun_score: FloatText | None = None
    largest_change: FloatText | None = None
    run_to_run: FloatText | None = None
    tolerance: FloatText


class ConfirmedRun(Frozen):
    """One further run of a submission of the prize zone, compared with its official result.

    `same_predictions` and `rank` are None where the run gave no valid result; `rank` is the one that the submission
    would have with this run's score. `official_node` ran what stands; `fresh_node` says whether `node` had never run
    this submission on the phase before, and is None where that is not known.
    """

    submission: Name
    series: Name
    verdict: Verdict
    node: Name | None = None
    same_predictions: bool | None = None
    score: FloatText | None = None
    rank: int | None = None
    official_node: Name | None = None
    fresh_node: bool | None = None


class ConfirmationRecorded(Event, kind="confirmation.recorded"):
    """The prize zone was run again on one machine type; this is what came of it. No score changes by it."""

    confirmation: Name
    phase: Name
    top: int = Field(ge=1)
    machine_type: Name
    runs: tuple[ConfirmedRun, ...] = Field(min_length=1)
