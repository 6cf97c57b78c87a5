"""What can be recorded of a ledger's move to another database."""

from __future__ import annotations

from typing import Literal

from referee.ledger.events import Event, Name


class LedgerMoved(Event, kind="ledger.moved"):
    """From here on the chain goes on in another database; where this is the last event, nothing is added.

    The address is not told here, since chains are published. `move` is a random name, the same as on arrival.
    """

    move: Name
    to: Literal["sqlite", "postgresql"]


class LedgerArrived(Event, kind="ledger.arrived"):
    """All events up to here, the names and the tables are in this database, and were found to be the same.

    With `abandoned` the move was called off, for that reason: the chain goes on where it was before.
    """

    move: Name
    abandoned: str = ""
