"""Find a node's last attempts without reading all: its health is judged after every attempt."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Open attempts are found as quickly by `attempts_by_end`.
    op.drop_index("attempts_open", "attempts")
    op.create_index("attempts_by_node", "attempts", ["node", "ended_seq"])
