"""Everything that can be recorded: one frozen model for each kind of event, registered by its name.

A kind's name and its fields are a file format: a field is never renamed or given another meaning, only new fields
with a default are added. Where an event refuses to be recorded because it does not fit what came before it
(an attempt that ends twice, a score of an evaluation without a valid result), the rule is in `projections`.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from referee.attempts import Measurements
from referee.challenge import Frozen, Limits, MetricChoice
from referee.errors import LedgerError
from referee.ledger.chain import format_time
from referee.rulings import Ruling
from referee.verdicts import Verdict

MAX_PROSE = 4000

KINDS: dict[str, type[Event]] = {}


def _inert(text: object) -> object:
    # `detail` and `signature` may quote what a submission did: no terminal escapes, no NUL (which PostgreSQL
    # refuses), no lone surrogates (which no database stores), and never without end.
    if not isinstance(text, str):
        return text
    clean = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text[: MAX_PROSE + 1])
    return clean if len(clean) <= MAX_PROSE else clean[: MAX_PROSE - 1] + "…"


def _float_text(text: str) -> str:
    # A score is kept as the text that reads back as the very same float.
    value = float(text)
    if not math.isfinite(value) or repr(value) != text:
        raise ValueError(f"{text!r} is not a finite float as `repr` writes it")
    return text


Prose = Annotated[str, BeforeValidator(_inert)]
Name = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
FloatText = Annotated[str, AfterValidator(_float_text)]
Instant = Annotated[
    AwareDatetime,
    AfterValidator(lambda moment: moment.astimezone(UTC)),
    PlainSerializer(format_time, return_type=str, when_used="json"),
]


class Event(Frozen):
    """Something that happened. `kind` is its name in the ledger; the payload is its fields."""

    model_config = ConfigDict(allow_inf_nan=False)

    kind: ClassVar[str]
    # Only the controller that holds the lease may say this, under its epoch.
    by_controller: ClassVar[bool] = False

    def __init_subclass__(cls, *, kind: str, by_controller: bool = False, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind in KINDS:
            raise TypeError(f"two events are called {kind!r}")
        cls.kind, cls.by_controller = kind, by_controller
        KINDS[kind] = cls

    def payload(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return self.model_dump(mode="json")


def read_event(kind: str, payload: str) -> Event:
    """The event that was stored as `kind` and `payload`.

    Raises:
        LedgerError: if this version of Referee knows no such kind, or the payload does not fit it.
    """
    if kind not in KINDS:
        raise LedgerError(
            f"The ledger holds an event of the unknown kind {kind!r}.",
            hint="Use the version of Referee that wrote it, or a later one.",
        )
    try:
        return KINDS[kind].model_validate(json.loads(payload))
    except (ValidationError, ValueError) as error:
        raise LedgerError(
            f"An event of the kind {kind!r} in the ledger cannot be read: {error}.",
            hint="Check the ledger with `referee ledger verify`.",
        ) from error


# The campaign and what it is about


class LedgerCreated(Event, kind="ledger.created"):
    """The first event. `campaign` is a random name, unique to this ledger."""

    campaign: Name
    challenge_name: Name


class ChallengeRecorded(Event, kind="challenge.recorded"):
    """The whole text of the challenge as it was used from here on, and its digest."""

    digest: Digest
    content: str


class PhaseRecorded(Event, kind="phase.recorded"):
    """A phase's data and labels, by digest. `files` is their number."""

    phase: Name
    data_digest: Digest
    files: int = Field(ge=0)
    labels_digest: Digest | None = None


class SubmissionImported(Event, kind="submission.imported"):
    """A submission under its blind ids; the names are outside of the chain, bound by `identity_commitment`."""

    submission: Name
    team: Name
    submission_kind: Literal["cpu", "gpu"]
    image: Digest
    identity_commitment: Digest
    public_score: float | None = None
    public_runtime_seconds: float | None = None
    same_image_as: Name | None = None


class SubmissionRefused(Event, kind="submission.refused"):
    """A submission whose image was not accepted; `reason` says why. A later import of a mended image lifts it."""

    submission: Name
    team: Name
    submission_kind: Literal["cpu", "gpu"]
    identity_commitment: Digest
    reason: Prose


class IdentitiesUnblinded(Event, kind="identities.unblinded"):
    """Names were shown: by which command, and why."""

    command: Name
    reason: Prose = ""


class RiskAccepted(Event, kind="risk.accepted"):
    """The operator accepted, by name, a risk that the sandbox cannot rule out."""

    name: Name
    reason: Prose = ""


# Controllers and nodes


class ControllerStarted(Event, kind="controller.started", by_controller=True):
    """A controller took the lease; from here on only this epoch writes what controllers write."""

    epoch: int = Field(ge=1)
    host: Name
    pid: int
    boot_id: str = ""


class ControllerStopped(Event, kind="controller.stopped", by_controller=True):
    """The controller let go of the lease in order."""

    epoch: int = Field(ge=1)
    reason: Prose = ""


class NodeProved(Event, kind="node.proved"):
    """A node showed that its sandbox keeps every promise. `checks` is how many were made."""

    node: Name
    boot_id: Name
    level: Name
    checks: int = Field(ge=0)


class NodeRefused(Event, kind="node.refused"):
    """A node could not show it, so nothing untrusted runs there."""

    node: Name
    boot_id: Name
    level: Name
    reason: Prose


class NodeQuarantined(Event, kind="node.quarantined"):
    """A node is left out after host faults in a row (see `policy.node_health`)."""

    node: Name
    reason: Prose


class NodeReleased(Event, kind="node.released"):
    """The operator takes a quarantined node back; its earlier faults are forgotten."""

    node: Name
    reason: Prose = ""


class DispatchStopped(Event, kind="dispatch.stopped"):
    """The circuit breaker opened: host faults spread, nothing more is started (see `policy.breaker`)."""

    reason: Prose


class DispatchResumed(Event, kind="dispatch.resumed"):
    """The operator lets work go out again; earlier faults no longer count for the breaker."""

    reason: Prose = ""


# Evaluations, attempts, scores


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


# Rulings, rejudgings, and what further runs showed


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


class CampaignFinished(Event, kind="campaign.finished", by_controller=True):
    """Every evaluation of the phase has ended."""

    phase: Name


def utc_now() -> datetime:
    """The clock that a ledger uses unless it is given another."""
    return datetime.now(UTC)
