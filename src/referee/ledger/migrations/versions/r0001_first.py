"""The first schema: the chain with its triggers, the identities, and the projections."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TRIGGERS = (
    "CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    "CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    """CREATE TRIGGER events_only_at_the_end BEFORE INSERT ON events
       WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM events)
         OR NEW.prev IS NOT coalesce((SELECT hash FROM events ORDER BY seq DESC LIMIT 1), printf('%064d', 0))
       BEGIN SELECT RAISE(ABORT, 'events are only added after the last one'); END""",
)

POSTGRESQL_TRIGGERS = (
    """CREATE FUNCTION events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
         RAISE EXCEPTION 'events are append-only' USING ERRCODE = 'integrity_constraint_violation';
       END $$""",
    # Whatever the writer's search path is, the table that is written to is the one that is looked at.
    """CREATE FUNCTION events_are_added_at_the_end() RETURNS trigger LANGUAGE plpgsql AS $$
       DECLARE
         last_seq integer;
         last_hash text;
       BEGIN
         EXECUTE format('SELECT seq, hash FROM %I.%I ORDER BY seq DESC LIMIT 1', TG_TABLE_SCHEMA, TG_TABLE_NAME)
           INTO last_seq, last_hash;
         IF NEW.seq IS DISTINCT FROM coalesce(last_seq, 0) + 1
            OR NEW.prev IS DISTINCT FROM coalesce(last_hash, repeat('0', 64)) THEN
           RAISE EXCEPTION 'events are only added after the last one'
             USING ERRCODE = 'integrity_constraint_violation';
         END IF;
         RETURN NEW;
       END $$""",
    (
        "CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON events"
        " FOR EACH ROW EXECUTE FUNCTION events_are_append_only()"
    ),
    (
        "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events"
        " FOR EACH STATEMENT EXECUTE FUNCTION events_are_append_only()"
    ),
    (
        "CREATE TRIGGER events_only_at_the_end BEFORE INSERT ON events"
        " FOR EACH ROW EXECUTE FUNCTION events_are_added_at_the_end()"
    ),
    *(
        f"ALTER TABLE events ENABLE ALWAYS TRIGGER {name}"
        for name in ("events_no_change", "events_no_truncate", "events_only_at_the_end")
    ),
)


def upgrade() -> None:
    op.create_table(
        "controllers",
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.Column("started_at", sa.String(length=27), nullable=False),
        sa.Column("stopped_at", sa.String(length=27), nullable=True),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("epoch"),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("prev", sa.String(length=64), nullable=False),
        sa.Column("time", sa.String(length=27), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("hash"),
        sa.UniqueConstraint("prev"),
    )
    op.create_index("events_by_kind", "events", ["kind", "seq"], unique=False)
    op.create_table(
        "identities",
        sa.Column("submission", sa.String(), nullable=False),
        sa.Column("team", sa.String(), nullable=False),
        sa.Column("submission_name", sa.String(), nullable=False),
        sa.Column("team_name", sa.String(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("submission"),
    )
    op.create_table(
        "nodes",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=True),
        sa.Column("level", sa.String(), nullable=True),
        sa.Column("proved", sa.Boolean(), nullable=True),
        sa.Column("quarantined", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("released_seq", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("node"),
    )
    op.create_table(
        "phases",
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("data_digest", sa.String(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("labels_digest", sa.String(), nullable=True),
        sa.Column("finished_at", sa.String(length=27), nullable=True),
        sa.PrimaryKeyConstraint("phase"),
    )
    op.create_table(
        "submissions",
        sa.Column("submission", sa.String(), nullable=False),
        sa.Column("team", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("identity_commitment", sa.String(), nullable=False),
        sa.Column("public_score", sa.Float(), nullable=True),
        sa.Column("public_runtime_seconds", sa.Float(), nullable=True),
        sa.Column("same_image_as", sa.String(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("submission"),
    )
    op.create_index(op.f("ix_submissions_image"), "submissions", ["image"], unique=False)
    op.create_index(op.f("ix_submissions_team"), "submissions", ["team"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("evaluation", sa.String(), nullable=False),
        sa.Column("submission", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("open_attempt", sa.String(), nullable=True),
        sa.Column("last_verdict", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("attempt", sa.String(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.String(length=27), nullable=False),
        sa.Column("ended_at", sa.String(length=27), nullable=True),
        sa.Column("predictions_digest", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["submission"],
            ["submissions.submission"],
        ),
        sa.PrimaryKeyConstraint("evaluation"),
        sa.UniqueConstraint("submission", "phase"),
    )
    op.create_index("evaluations_by_phase", "evaluations", ["phase", "position"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("attempt", sa.String(), nullable=False),
        sa.Column("evaluation", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("machine_type", sa.String(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("result_key", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("reference", sa.Boolean(), nullable=False),
        sa.Column("wall_time_scale", sa.Float(), nullable=False),
        sa.Column("speed_ratio_upper", sa.Float(), nullable=True),
        sa.Column("handle", sa.String(), nullable=True),
        sa.Column("planned_at", sa.String(length=27), nullable=False),
        sa.Column("submitted_at", sa.String(length=27), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("node", sa.String(), nullable=True),
        sa.Column("started_at", sa.String(length=27), nullable=True),
        sa.Column("ended_at", sa.String(length=27), nullable=True),
        sa.Column("measurements", sa.Text(), nullable=True),
        sa.Column("exit_status", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("signature", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("predictions_digest", sa.String(), nullable=True),
        sa.Column("predictions_rows", sa.Integer(), nullable=True),
        sa.Column("log_digest", sa.String(), nullable=True),
        sa.Column("reported_by", sa.String(), nullable=True),
        sa.Column("fenced", sa.Text(), nullable=True),
        sa.Column("planned_seq", sa.Integer(), nullable=False),
        sa.Column("ended_seq", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["evaluation"],
            ["evaluations.evaluation"],
        ),
        sa.PrimaryKeyConstraint("attempt"),
        sa.UniqueConstraint("evaluation", "number"),
        sa.UniqueConstraint("result_key"),
    )
    op.create_index("attempts_by_end", "attempts", ["ended_seq"], unique=False)
    op.create_index(
        "attempts_open",
        "attempts",
        ["planned_seq"],
        unique=False,
        sqlite_where=sa.text("ended_seq IS NULL"),
        postgresql_where=sa.text("ended_seq IS NULL"),
    )
    op.create_table(
        "scores",
        sa.Column("evaluation", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("predictions_digest", sa.String(), nullable=False),
        sa.Column("labels_digest", sa.String(), nullable=False),
        sa.Column("scorer_version", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation"],
            ["evaluations.evaluation"],
        ),
        sa.PrimaryKeyConstraint("evaluation", "metric"),
    )
    # Whoever writes, nothing in the chain is changed or taken away, and nothing is added but at its end. REPLACE would
    # delete without firing the delete trigger, so the insert trigger looks at the last link itself.
    for trigger in POSTGRESQL_TRIGGERS if op.get_bind().dialect.name == "postgresql" else TRIGGERS:
        op.execute(sa.text(trigger.replace(":", r"\:")))
