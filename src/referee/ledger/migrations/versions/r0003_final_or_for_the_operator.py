"""Tell endings that stand from those that the operator may reopen; filled when the tables are made again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("evaluations", sa.Column("final", sa.Boolean(create_constraint=False), nullable=True))
