"""Everything that can be recorded: one frozen model for each kind of event, registered by its name.

A kind's name and its fields are a file format: a field is never renamed or given another meaning, only new fields
with a default are added. Where an event refuses to be recorded because it does not fit what came before it
(an attempt that ends twice, a score of an evaluation without a valid result), the rule is in `projections`.

| module | events of |
|---|---|
| `campaign` | the campaign and what it is about |
| `conduct` | controllers, nodes, and the dispatch |
| `evaluation` | evaluations, attempts, scores |
| `review` | rulings, rejudgings, and what further runs showed |
| `event` | (what every event is) |

Those of pilot and plan, of seals, and of moves are in `plans`, `seals` and `moves` beside this package.
"""

from referee.ledger.events.campaign import (
    CampaignFinished,
    ChallengeRecorded,
    IdentitiesUnblinded,
    LedgerCreated,
    PhaseRecorded,
    RiskAccepted,
    SubmissionImported,
    SubmissionRefused,
)
from referee.ledger.events.conduct import (
    ControllerStarted,
    ControllerStopped,
    DispatchResumed,
    DispatchStopped,
    NodeProved,
    NodeQuarantined,
    NodeRefused,
    NodeReleased,
)
from referee.ledger.events.evaluation import (
    AttemptEnded,
    AttemptFenced,
    AttemptPlanned,
    AttemptSubmitted,
    EvaluationEnded,
    EvaluationHeld,
    EvaluationReopened,
    EvaluationRequested,
    EvaluationScored,
    ScoringFixed,
    SeriesStarted,
)
from referee.ledger.events.event import (
    KINDS,
    MAX_PROSE,
    Digest,
    Event,
    FloatText,
    Instant,
    Name,
    Prose,
    read_event,
    utc_now,
)
from referee.ledger.events.review import (
    ConfirmationRecorded,
    ConfirmedRun,
    RejudgingApplied,
    RejudgingCancelled,
    RejudgingStaged,
    SubmissionReproduced,
    SubmissionRuled,
)

__all__ = [
    "KINDS",
    "MAX_PROSE",
    "AttemptEnded",
    "AttemptFenced",
    "AttemptPlanned",
    "AttemptSubmitted",
    "CampaignFinished",
    "ChallengeRecorded",
    "ConfirmationRecorded",
    "ConfirmedRun",
    "ControllerStarted",
    "ControllerStopped",
    "Digest",
    "DispatchResumed",
    "DispatchStopped",
    "EvaluationEnded",
    "EvaluationHeld",
    "EvaluationReopened",
    "EvaluationRequested",
    "EvaluationScored",
    "Event",
    "FloatText",
    "IdentitiesUnblinded",
    "Instant",
    "LedgerCreated",
    "Name",
    "NodeProved",
    "NodeQuarantined",
    "NodeRefused",
    "NodeReleased",
    "PhaseRecorded",
    "Prose",
    "RejudgingApplied",
    "RejudgingCancelled",
    "RejudgingStaged",
    "RiskAccepted",
    "ScoringFixed",
    "SeriesStarted",
    "SubmissionImported",
    "SubmissionRefused",
    "SubmissionReproduced",
    "SubmissionRuled",
    "read_event",
    "utc_now",
]
