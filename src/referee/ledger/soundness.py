"""Whether a ledger is sound: its chain, its events, the names beside it, and the tables that follow from it."""

from __future__ import annotations

from sqlalchemy import Connection, create_engine, func, select

from referee.errors import LedgerError
from referee.ledger import projections
from referee.ledger.chain import Head, verify_links
from referee.ledger.events import LedgerCreated, read_event
from referee.ledger.identities import Identity
from referee.ledger.records import read_links
from referee.ledger.schema import IDENTITIES, METADATA, REFUSALS, SUBMISSIONS


def check(connection: Connection) -> Head:
    """Check everything that one reading transaction shows.

    Returns:
        The head of the sound chain.

    Raises:
        LedgerError: naming the first thing that is wrong.
    """
    head = verify_links(read_links(connection))
    first = next(read_links(connection), None)
    if first is None or first.kind != LedgerCreated.kind:
        raise LedgerError("The ledger does not begin with its creation.", hint="Restore it from a copy.")
    _verify_identities(connection)
    _verify_projections(_replayed(connection), projections.contents(connection))
    return head


def rebuild(connection: Connection) -> None:
    """Make every projection again from the chain, in a transaction of the caller."""
    projections.clear(connection)
    _apply_all(connection, connection)


def _apply_all(chain: Connection, tables: Connection) -> None:
    # Where both are one connection a page of links is read whole before it is applied (`read_links`).
    for link in read_links(chain):
        projections.apply(tables, link, read_event(link.kind, link.payload))


def _verify_identities(connection: Connection) -> None:
    commitment = func.coalesce(SUBMISSIONS.c.identity_commitment, REFUSALS.c.identity_commitment)
    bound = (
        select(IDENTITIES, commitment.label("identity_commitment"))
        .outerjoin(SUBMISSIONS, SUBMISSIONS.c.submission == IDENTITIES.c.submission)
        .outerjoin(REFUSALS, REFUSALS.c.submission == IDENTITIES.c.submission)
    )
    for row in connection.execute(bound.order_by(IDENTITIES.c.submission)):
        identity = Identity(row.submission, row.team, row.submission_name, row.team_name, row.salt)
        if identity.commitment != row.identity_commitment:
            raise LedgerError(
                f"The names of {row.submission} are not those that the chain commits to: they were changed.",
                hint="Restore the table `identities` from a copy.",
            )


def _replayed(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as fresh:
            METADATA.create_all(fresh)
            _apply_all(connection, fresh)
            return projections.contents(fresh)
    finally:
        engine.dispose()


def _verify_projections(
    replayed: dict[str, list[tuple[object, ...]]], stored: dict[str, list[tuple[object, ...]]]
) -> None:
    for table, rows in replayed.items():
        # By whole rows, so that a missing one does not make all after it look wrong.
        odd = set(rows) ^ set(stored[table])
        if odd:
            first = min(odd, key=lambda row: str(row[0]))
            raise LedgerError(
                f"The table {table} does not follow from the chain, beginning with {first[0]!r}.",
                hint="The chain itself is sound: `referee ledger rebuild` makes the tables again.",
            )
