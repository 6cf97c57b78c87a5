"""What is recorded of evaluations, their attempts, and their scores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from referee.attempts import Measurements
from referee.challenge import Limits, MetricChoice
from referee.ledger.events.event import Digest, Event, FloatText, Instant, Name, Prose
from referee.verdicts import Verdict


class SeriesStarted(Event, kind="series.started"):
    """Some submissions are to be run once more on a phase, beside their official evaluations, for a purpose.

    The runs are evaluations like others, under the name of the series, and count for nothing by themselves.
    `machine_type` binds them to one kind of machine; `limits` replaces the challenge's for them.
    """

    series: Name
    purpose: Literal["rejudging", "reproduction", "confirmation", "probe"]
    phase: Name
    submissions: tuple[Name, ...] = Field(min_length=1)
    machine_type: Name | None = None
    limits: Limits | None = None


class EvaluationRequested(Event, kind="evaluation.requested", by_controller=True):
    """A submission is to be evaluated on a phase; `order` is its place in the order of dispatch.

    `series` names the series of further runs that it belongs to; empty for the official evaluation.
    """

    evaluation: Name
    submission: Name
    phase: Name
    order: int
    series: str = ""


class EvaluationHeld(Event, kind="evaluation.held", by_controller=True):
    """A submission is not evaluated on a phase because it did not reproduce; a later request lifts it."""

    submission: Name
    phase: Name
    reason: Prose


class AttemptPlanned(Event, kind="attempt.planned", by_controller=True):
    """The intent to run an evaluation once more, recorded before any engine hears of it.

    `reference`, `wall_time_scale` and `speed_ratio_upper` are what `policy.decide` needs to judge a time-out
    later: whether the machine type is the reference, the factor on the wall time limit, and the upper 99% of
    this type's runtime over the reference's (None: not known). `smoke`: on a few files only, before the full run.
    """

    attempt: Name
    evaluation: Name
    number: int = Field(ge=1)
    machine_type: Name
    engine: Name
    result_key: Name
    level: Name
    reference: bool = True
    wall_time_scale: float = Field(default=1.0, gt=0)
    speed_ratio_upper: float | None = Field(default=None, gt=0)
    smoke: bool = False


class AttemptSubmitted(Event, kind="attempt.submitted", by_controller=True):
    """The engine took the attempt (or was found to have it); `handle` is the engine's own id."""

    attempt: Name
    handle: Name


class AttemptEnded(Event, kind="attempt.ended", by_controller=True):
    """How an attempt ended, said by its worker's result, or by the controller where there is none."""

    attempt: Name
    verdict: Verdict
    node: Name | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    measurements: Measurements | None = None
    exit_status: int | None = None
    signal: int | None = None
    signature: Prose = ""
    detail: Prose = ""
    predictions_digest: Digest | None = None
    predictions_rows: int | None = None
    log_digest: Digest | None = None
    reported_by: Literal["worker", "controller"]


class AttemptFenced(Event, kind="attempt.fenced", by_controller=True):
    """A late or foreign result of an attempt was seen and left aside; nothing else changes."""

    attempt: Name
    reason: Prose


class EvaluationEnded(Event, kind="evaluation.ended", by_controller=True):
    """The evaluation's verdict. `attempt` is the one that it rests on; None where none was possible.

    `final` says whether it stands for good (`policy.Finish`) or the operator may reopen it (`policy.AskOperator`);
    None leaves it to the verdict: valid results and what is the submission's doing are final. `copied_from` is the
    evaluation of the same image that was run in its stead, whose verdict, attempt and predictions are this one's too.
    """

    evaluation: Name
    verdict: Verdict
    attempt: Name | None = None
    reason: Prose = ""
    final: bool | None = None
    copied_from: Name | None = None


class EvaluationReopened(Event, kind="evaluation.reopened"):
    """A fresh round of attempts is granted to an evaluation that ended, but not for good."""

    evaluation: Name
    reason: Prose


class EvaluationScored(Event, kind="evaluation.scored"):
    """Scores by metric, of exactly these predictions under exactly these labels, by this version of the scorer.

    `epsilon` is the metrics' clipping (None in ledgers that were written before it was kept: then the challenge's).
    With `rejudging` the scores are staged under that rejudging and count only once it is applied. With `salt` they are
    those that were sealed before (`seals.score_commitment`).
    """

    evaluation: Name
    scores: dict[str, FloatText] = Field(min_length=1)
    predictions_digest: Digest
    labels_digest: Digest
    scorer_version: Name
    epsilon: FloatText | None = None
    rejudging: Name | None = None
    salt: Name | None = None


class ScoringFixed(Event, kind="scoring.fixed"):
    """By which metrics and labels a phase is scored from here on; only an applied rejudging changes it.

    Secondary metrics may be added; everything else about it stands.
    """

    phase: Name
    metric: MetricChoice
    labels_digest: Digest
