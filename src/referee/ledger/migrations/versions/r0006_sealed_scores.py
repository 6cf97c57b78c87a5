"""Phases whose scores are sealed until release, and what was committed to meanwhile."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "seals",
        sa.Column("phase", sa.String(), primary_key=True),
        sa.Column("sealed", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
    )
    op.create_table(
        "sealed_scores",
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("evaluation", sa.String(), sa.ForeignKey("evaluations.evaluation"), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("commitment", sa.String(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("opened_seq", sa.Integer()),
    )
    op.create_index("ix_sealed_scores_evaluation", "sealed_scores", ["evaluation"])
