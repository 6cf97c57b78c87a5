"""What the command line, the report and the web read: typed rows, one function for each question.

| module | questions about |
|---|---|
| `conduct` | the campaign, its phases, controllers and nodes |
| `submission` | submissions, refusals, rulings, names |
| `evaluation` | evaluations, and how far a phase is |
| `attempt` | attempts, and the outcomes that `policy` decides by |
| `score` | scores and seals |
| `further_run` | series, rejudgings, reproductions, confirmations |
| `reading` | (how rows are read) |

What is official is what is given, unless a series of further runs is named: status, board and pilot never see those.

Each takes the ledger and reads one unchanging state of it. Times are aware and in UTC; durations are seconds;
sizes are bytes; scores are the floats that were recorded, bit for bit.
"""

from referee.ledger.queries.attempt import (
    AttemptRow,
    attempts,
    histories,
    node_outcomes,
    open_attempts,
    recent_outcomes,
)
from referee.ledger.queries.conduct import (
    ControllerRow,
    NodeRow,
    PhaseRow,
    accepted_risks,
    campaign,
    challenge,
    controllers,
    dispatch_stopped,
    last_event_time,
    nodes,
    phases,
)
from referee.ledger.queries.evaluation import EvaluationRow, Status, evaluations, held, status
from referee.ledger.queries.further_run import RejudgingRow, SeriesRow, confirmations, rejudgings, reproductions, series
from referee.ledger.queries.score import (
    ScoreRow,
    SealedRow,
    SealRow,
    public_ranks,
    scores,
    scoring,
    sealed_scores,
    seals,
)
from referee.ledger.queries.submission import (
    RefusalRow,
    RulingRow,
    SubmissionRow,
    names,
    refusals,
    rulings,
    submissions,
    taken_off,
)

__all__ = [
    "AttemptRow",
    "ControllerRow",
    "EvaluationRow",
    "NodeRow",
    "PhaseRow",
    "RefusalRow",
    "RejudgingRow",
    "RulingRow",
    "ScoreRow",
    "SealRow",
    "SealedRow",
    "SeriesRow",
    "Status",
    "SubmissionRow",
    "accepted_risks",
    "attempts",
    "campaign",
    "challenge",
    "confirmations",
    "controllers",
    "dispatch_stopped",
    "evaluations",
    "held",
    "histories",
    "last_event_time",
    "names",
    "node_outcomes",
    "nodes",
    "open_attempts",
    "phases",
    "public_ranks",
    "recent_outcomes",
    "refusals",
    "rejudgings",
    "reproductions",
    "rulings",
    "scores",
    "scoring",
    "sealed_scores",
    "seals",
    "series",
    "status",
    "submissions",
    "taken_off",
]
