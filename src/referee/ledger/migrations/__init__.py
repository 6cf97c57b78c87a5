"""The ledger's schema through time, as alembic revisions; `bring_up_to_date` runs them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from referee.errors import LedgerError

# The newest revision. Kept here so that opening a ledger that is up to date does not load alembic.
NEWEST = "0007"

# SQLite orders text by its bytes; a database's own collation may order it by the rules of a language.
_ORDER_BY_BYTES = """
DO $$
DECLARE
  found record;
BEGIN
  FOR found IN
    SELECT c.table_schema, c.table_name, c.column_name, format_type(a.atttypid, a.atttypmod) AS type
    FROM information_schema.columns c
    JOIN pg_attribute a ON a.attrelid = format('%I.%I', c.table_schema, c.table_name)::regclass
      AND a.attname = c.column_name
    JOIN information_schema.tables t USING (table_schema, table_name)
    WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'
      AND c.data_type IN ('text', 'character varying') AND c.collation_name IS DISTINCT FROM 'C'
  LOOP
    EXECUTE format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE %s COLLATE "C"',
                   found.table_schema, found.table_name, found.column_name, found.type);
  END LOOP;
END $$
"""


def version_of(connection: Connection) -> str | None:
    """The revision that the database is at; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def bring_up_to_date(connection: Connection, *, revision: str = NEWEST) -> None:
    """Run, inside the caller's transaction, every migration that the database has not seen.

    Raises:
        LedgerError: if the database was written by a newer version of Referee.
    """
    from alembic import command  # noqa: PLC0415 - loading alembic takes longer than most commands
    from alembic.config import Config  # noqa: PLC0415 - the same
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - the same

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    version = version_of(connection)
    if version is not None and version not in known:
        raise LedgerError(
            f"This ledger was written by a newer version of Referee (schema {version}, this one knows {NEWEST}).",
            hint="Install that version, or a later one.",
        )
    command.upgrade(config, revision)
    if connection.dialect.name == "postgresql":
        connection.execute(text(_ORDER_BY_BYTES))
