"""Run by alembic: the connection and its transaction are the caller's."""

from __future__ import annotations

from alembic import context

from referee.ledger.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
