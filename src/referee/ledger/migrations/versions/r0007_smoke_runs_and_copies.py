"""Tell smoke runs from full ones, and results of one's own from those of an equal image that was run instead."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "attempts", sa.Column("smoke", sa.Boolean(create_constraint=False), nullable=False, server_default="0")
    )
    op.add_column("evaluations", sa.Column("copied_from", sa.String(), nullable=True))
