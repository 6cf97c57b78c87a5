"""The ledger: the append-only, hash-chained record of everything that happened, and what it adds up to.

| module | noun |
|---|---|
| `events` | every kind of event that can be recorded, as frozen models |
| `plans` | the events of pilot, plan and forecasts |
| `seals` | the events that bind the operator: anchors, sealed scores |
| `chain` | canonical JSON, the hash of a link, walking a chain (pure; the auditor uses it without a database) |
| `schema`, `migrations` | the tables, and how files of older versions become files of this one |
| `database` | what any database below gives: transactions, the controller's lock |
| `sqlite`, `file_systems` | SQLite: settings, transactions, which places are refused |
| `postgresql` | PostgreSQL: addresses, sessions, advisory locks |
| `moves`, `relocation` | moving a ledger to another database |
| `home` | where a challenge's ledger lies, whose campaign it is |
| `records` | an event with its place in the chain |
| `store` | `Ledger`: create, open, append, verify, rebuild, lead |
| `soundness` | the check of everything, and the tables made again from the chain |
| `lease` | the lock that keeps a second controller out |
| `identities` | the names behind the blind ids, kept outside of the chain |
| `projections` | the tables that follow from the events, and the histories that are refused |
| `queries` | what the command line, the report and the web read |

Writing is one function, `Ledger.append`. What controllers write needs the lease:

    with Ledger.open(path) as ledger, ledger.lead() as lease:
        lease.append([AttemptPlanned(...), ...])     # one transaction: all of them, or none
"""

from referee.ledger import queries
from referee.ledger.chain import Head, Link, canonical_json, verify_links
from referee.ledger.events import (
    AttemptEnded,
    AttemptFenced,
    AttemptPlanned,
    AttemptSubmitted,
    CampaignFinished,
    ChallengeRecorded,
    ConfirmationRecorded,
    ConfirmedRun,
    ControllerStarted,
    ControllerStopped,
    DispatchResumed,
    DispatchStopped,
    EvaluationEnded,
    EvaluationHeld,
    EvaluationReopened,
    EvaluationRequested,
    EvaluationScored,
    Event,
    IdentitiesUnblinded,
    LedgerCreated,
    NodeProved,
    NodeQuarantined,
    NodeRefused,
    NodeReleased,
    PhaseRecorded,
    RejudgingApplied,
    RejudgingCancelled,
    RejudgingStaged,
    RiskAccepted,
    ScoringFixed,
    SeriesStarted,
    SubmissionImported,
    SubmissionRefused,
    SubmissionReproduced,
    SubmissionRuled,
    read_event,
)
from referee.ledger.identities import Identity
from referee.ledger.plans import CampaignWarned, ForecastMade, PilotDrawn, PlanConfirmed
from referee.ledger.records import Recorded
from referee.ledger.seals import (
    AnchorPublished,
    EvaluationSealed,
    PhaseSealed,
    PhaseUnsealed,
    PublicBoardRecorded,
    PublicStanding,
)
from referee.ledger.store import Lease, Ledger

__all__ = [
    "AnchorPublished",
    "AttemptEnded",
    "AttemptFenced",
    "AttemptPlanned",
    "AttemptSubmitted",
    "CampaignFinished",
    "CampaignWarned",
    "ChallengeRecorded",
    "ConfirmationRecorded",
    "ConfirmedRun",
    "ControllerStarted",
    "ControllerStopped",
    "DispatchResumed",
    "DispatchStopped",
    "EvaluationEnded",
    "EvaluationHeld",
    "EvaluationReopened",
    "EvaluationRequested",
    "EvaluationScored",
    "EvaluationSealed",
    "Event",
    "ForecastMade",
    "Head",
    "IdentitiesUnblinded",
    "Identity",
    "Lease",
    "Ledger",
    "LedgerCreated",
    "Link",
    "NodeProved",
    "NodeQuarantined",
    "NodeRefused",
    "NodeReleased",
    "PhaseRecorded",
    "PhaseSealed",
    "PhaseUnsealed",
    "PilotDrawn",
    "PlanConfirmed",
    "PublicBoardRecorded",
    "PublicStanding",
    "Recorded",
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
    "canonical_json",
    "queries",
    "read_event",
    "verify_links",
]
