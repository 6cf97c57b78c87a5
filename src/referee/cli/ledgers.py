"""`referee ledger …`: check the record of everything that happened, and print it."""

from __future__ import annotations

from cyclopts import App

from referee.cli import screen
from referee.cli.app import HERE, AsJson, Folder, app
from referee.workspace import Workspace

ledger_app = App(name="ledger", help="The append-only, hash-chained record of everything that happened.")
app.command(ledger_app)


@ledger_app.command
def verify(*, challenge: Folder = HERE, json: AsJson = False) -> None:
    """Check the whole ledger: the hash chain, every event, the names' commitments, and the tables made from it."""
    with Workspace.open(challenge).ledger() as ledger:
        head = ledger.verify()
    if json:
        screen.print_json({"events": head.seq, "head": head.hash})
    else:
        screen.say(f"The ledger is sound: {head.seq} events, head {head.hash}.")


@ledger_app.command
def rebuild(*, challenge: Folder = HERE) -> None:
    """Make the tables that commands read again from the chain of events, after checking the chain."""
    with Workspace.open(challenge).ledger() as ledger:
        ledger.rebuild()
    screen.say("The tables were made again from the chain.")


@ledger_app.command(name="events")
def print_events(*, challenge: Folder = HERE, after: int = 0, json: AsJson = False) -> None:
    """Print what happened, in order.

    Parameters
    ----------
    after
        Only events with a higher number.
    """
    with Workspace.open(challenge).ledger() as ledger:
        for recorded in ledger.events(after=after):
            payload = recorded.event.payload()
            if json:
                screen.print_json_line(
                    {
                        "seq": recorded.seq,
                        "time": recorded.time.isoformat(),
                        "epoch": recorded.epoch,
                        "kind": recorded.event.kind,
                        "payload": payload,
                        "hash": recorded.hash,
                    }
                )
            else:
                facts = " ".join(f"{name}={value}" for name, value in payload.items() if value not in (None, "", {}))
                screen.say(f"{recorded.seq:>6} {recorded.time:%Y-%m-%d %H:%M:%S} {recorded.event.kind}  {facts[:300]}")
