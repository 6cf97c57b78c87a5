"""The tables: the chain of events, which is the truth, and the projections, which can be built again from it.

`identities` is the one table that is neither: names of teams and submissions are kept outside of the chain, so that
they can be left out of a published one; the chain holds a salted commitment to them.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

EVENTS = Table(
    "events",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("prev", String(64), nullable=False, unique=True),
    Column("time", String(27), nullable=False),
    Column("epoch", Integer),
    Column("kind", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Index("events_by_kind", "kind", "seq"),
)

IDENTITIES = Table(
    "identities",
    METADATA,
    Column("submission", String, primary_key=True),
    Column("team", String, nullable=False),
    Column("submission_name", String, nullable=False),
    Column("team_name", String, nullable=False),
    Column("salt", String, nullable=False),
)

CONTROLLERS = Table(
    "controllers",
    METADATA,
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("boot_id", String, nullable=False),
    Column("started_at", String(27), nullable=False),
    Column("stopped_at", String(27)),
    Column("stop_reason", Text),
)

PHASES = Table(
    "phases",
    METADATA,
    Column("phase", String, primary_key=True),
    Column("data_digest", String, nullable=False),
    Column("files", Integer, nullable=False),
    Column("labels_digest", String),
    Column("finished_at", String(27)),
    Column("scoring", Text),
)

SUBMISSIONS = Table(
    "submissions",
    METADATA,
    Column("submission", String, primary_key=True),
    Column("team", String, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("image", String, nullable=False, index=True),
    Column("identity_commitment", String, nullable=False),
    Column("public_score", Float),
    Column("public_runtime_seconds", Float),
    Column("same_image_as", String),
    Column("seq", Integer, nullable=False),
)

REFUSALS = Table(
    "refusals",
    METADATA,
    Column("submission", String, primary_key=True),
    Column("team", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("identity_commitment", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seq", Integer, nullable=False),
)

EVALUATIONS = Table(
    "evaluations",
    METADATA,
    Column("evaluation", String, primary_key=True),
    Column("submission", ForeignKey("submissions.submission"), nullable=False),
    Column("phase", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("open_attempt", String),
    Column("last_verdict", String),
    Column("verdict", String),
    Column("final", Boolean(create_constraint=False)),
    Column("attempt", String),
    Column("reason", Text, nullable=False),
    Column("requested_at", String(27), nullable=False),
    Column("ended_at", String(27)),
    Column("predictions_digest", String),
    Column("series", String, nullable=False, server_default=""),
    Column("copied_from", String),
    UniqueConstraint("submission", "phase", "series"),
    Index("evaluations_by_phase", "phase", "series", "position"),
)

ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("attempt", String, primary_key=True),
    Column("evaluation", ForeignKey("evaluations.evaluation"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("machine_type", String, nullable=False),
    Column("engine", String, nullable=False),
    Column("result_key", String, nullable=False, unique=True),
    Column("level", String, nullable=False),
    Column("reference", Boolean(create_constraint=False), nullable=False),
    Column("wall_time_scale", Float, nullable=False),
    Column("speed_ratio_upper", Float),
    Column("handle", String),
    Column("planned_at", String(27), nullable=False),
    Column("submitted_at", String(27)),
    Column("verdict", String),
    Column("node", String),
    Column("started_at", String(27)),
    Column("ended_at", String(27)),
    Column("measurements", Text),
    Column("exit_status", Integer),
    Column("signal", Integer),
    Column("signature", Text),
    Column("detail", Text),
    Column("predictions_digest", String),
    Column("predictions_rows", Integer),
    Column("log_digest", String),
    Column("reported_by", String),
    Column("fenced", Text),
    Column("planned_seq", Integer, nullable=False),
    Column("ended_seq", Integer),
    Column("smoke", Boolean(create_constraint=False), nullable=False, server_default="0"),
    UniqueConstraint("evaluation", "number"),
    Index("attempts_by_end", "ended_seq"),
    Index("attempts_by_node", "node", "ended_seq"),
)

SCORES = Table(
    "scores",
    METADATA,
    Column("evaluation", ForeignKey("evaluations.evaluation"), primary_key=True),
    Column("metric", String, primary_key=True),
    # Empty for the scores that stand; otherwise they are staged under this rejudging.
    Column("rejudging", String, primary_key=True, server_default=""),
    Column("value", String, nullable=False),
    Column("predictions_digest", String, nullable=False),
    Column("labels_digest", String, nullable=False),
    Column("scorer_version", String, nullable=False),
    Column("epsilon", String),
    Column("seq", Integer, nullable=False),
)

SERIES = Table(
    "series",
    METADATA,
    Column("series", String, primary_key=True),
    Column("purpose", String, nullable=False),
    Column("phase", String, nullable=False),
    Column("submissions", Text, nullable=False),
    Column("machine_type", String),
    Column("limits", Text),
    Column("seq", Integer, nullable=False),
)

RULINGS = Table(
    "rulings",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("submission", ForeignKey("submissions.submission"), nullable=False, index=True),
    Column("ruling", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ruled_at", String(27), nullable=False),
)

REJUDGINGS = Table(
    "rejudgings",
    METADATA,
    Column("rejudging", String, primary_key=True),
    Column("phase", String, nullable=False),
    Column("method", String, nullable=False),
    Column("submissions", Text, nullable=False),
    Column("selection", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("labels_digest", String, nullable=False),
    Column("before", String, nullable=False),
    Column("after", String),
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("staged_at", String(27), nullable=False),
    Column("closed_at", String(27)),
    Column("seq", Integer, nullable=False),
)

SEALS = Table(
    "seals",
    METADATA,
    Column("phase", String, primary_key=True),
    Column("sealed", Boolean(create_constraint=False), nullable=False),
    Column("reason", Text, nullable=False),
    Column("seq", Integer, nullable=False),
)

SEALED_SCORES = Table(
    "sealed_scores",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("evaluation", ForeignKey("evaluations.evaluation"), nullable=False, index=True),
    Column("metrics", Text, nullable=False),
    Column("commitment", String, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("opened_seq", Integer),
)

NODES = Table(
    "nodes",
    METADATA,
    Column("node", String, primary_key=True),
    Column("boot_id", String),
    Column("level", String),
    Column("proved", Boolean(create_constraint=False)),
    Column("quarantined", Boolean(create_constraint=False), nullable=False),
    Column("reason", Text, nullable=False),
    Column("released_seq", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
)

# In an order in which each can be filled after the ones before it.
PROJECTIONS = (
    CONTROLLERS,
    PHASES,
    SUBMISSIONS,
    REFUSALS,
    SERIES,
    EVALUATIONS,
    ATTEMPTS,
    SCORES,
    SEALS,
    SEALED_SCORES,
    NODES,
    RULINGS,
    REJUDGINGS,
)
