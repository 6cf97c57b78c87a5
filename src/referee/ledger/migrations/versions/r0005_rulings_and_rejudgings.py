"""Rulings, rejudgings, and further runs beside the official evaluation; filled when the tables are made again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("phases", sa.Column("scoring", sa.Text(), nullable=True))
    # SQLite cannot change a table's constraints. Nothing is lost: every row follows from the chain, and all are made
    # again after the migrations.
    for table in ("scores", "attempts", "evaluations"):
        op.drop_table(table)
    _evaluations()
    _attempts()
    _scores()
    _new_tables()


def _evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("evaluation", sa.String(), primary_key=True),
        sa.Column("submission", sa.String(), sa.ForeignKey("submissions.submission"), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("open_attempt", sa.String(), nullable=True),
        sa.Column("last_verdict", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("final", sa.Boolean(create_constraint=False), nullable=True),
        sa.Column("attempt", sa.String(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.String(length=27), nullable=False),
        sa.Column("ended_at", sa.String(length=27), nullable=True),
        sa.Column("predictions_digest", sa.String(), nullable=True),
        sa.Column("series", sa.String(), nullable=False, server_default=""),
        sa.UniqueConstraint("submission", "phase", "series"),
    )
    op.create_index("evaluations_by_phase", "evaluations", ["phase", "series", "position"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("attempt", sa.String(), primary_key=True),
        sa.Column("evaluation", sa.String(), sa.ForeignKey("evaluations.evaluation"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("machine_type", sa.String(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("result_key", sa.String(), nullable=False, unique=True),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("reference", sa.Boolean(create_constraint=False), nullable=False),
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
        sa.UniqueConstraint("evaluation", "number"),
    )
    op.create_index("attempts_by_end", "attempts", ["ended_seq"])
    op.create_index("attempts_by_node", "attempts", ["node", "ended_seq"])


def _scores() -> None:
    op.create_table(
        "scores",
        sa.Column("evaluation", sa.String(), sa.ForeignKey("evaluations.evaluation"), primary_key=True),
        sa.Column("metric", sa.String(), primary_key=True),
        sa.Column("rejudging", sa.String(), primary_key=True, server_default=""),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("predictions_digest", sa.String(), nullable=False),
        sa.Column("labels_digest", sa.String(), nullable=False),
        sa.Column("scorer_version", sa.String(), nullable=False),
        sa.Column("epsilon", sa.String(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=False),
    )


def _new_tables() -> None:
    op.create_table(
        "series",
        sa.Column("series", sa.String(), primary_key=True),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("submissions", sa.Text(), nullable=False),
        sa.Column("machine_type", sa.String(), nullable=True),
        sa.Column("limits", sa.Text(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=False),
    )
    op.create_table(
        "rulings",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("submission", sa.String(), sa.ForeignKey("submissions.submission"), nullable=False),
        sa.Column("ruling", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("ruled_at", sa.String(length=27), nullable=False),
    )
    op.create_index("ix_rulings_submission", "rulings", ["submission"])
    op.create_table(
        "rejudgings",
        sa.Column("rejudging", sa.String(), primary_key=True),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("submissions", sa.Text(), nullable=False),
        sa.Column("selection", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("labels_digest", sa.String(), nullable=False),
        sa.Column("before", sa.String(), nullable=False),
        sa.Column("after", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("staged_at", sa.String(length=27), nullable=False),
        sa.Column("closed_at", sa.String(length=27), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=False),
    )
