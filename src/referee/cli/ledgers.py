"""`referee ledger …`: check the record of everything that happened, and print it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

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


@ledger_app.command
def migrate(
    *,
    to: str,
    abandon: str | None = None,
    lost: Annotated[bool, Parameter(negative="")] = False,
    challenge: Folder = HERE,
    json: AsJson = False,
) -> None:
    """Move the ledger to another database: every event byte for byte, the names, and the tables made again.

    No controller may be at work. What is moved is compared before it counts; the old ledger can be read on, but nothing
    is added to it. A move that was interrupted is completed by the same command.

    Parameters
    ----------
    to
        The address of a PostgreSQL database (`postgresql://USER@HOST/DATABASE`, where `?schema=NAME` names another
        schema than the challenge's name), or `sqlite` for the file in the challenge's folder. Passwords are read from
        ~/.pgpass.
    abandon
        Call off a move to that place that was not completed, for this reason; the ledger goes on where it was.
    lost
        With --abandon: that place cannot be looked at, because it is lost for good.
    """
    workspace = Workspace.open(challenge)
    place = workspace.home.file if to == "sqlite" else to
    if abandon is not None:
        head = workspace.home.abandon(place, abandon, lost=lost)
        if json:
            screen.print_json({"abandoned": to, "events": head.seq, "head": head.hash})
        else:
            screen.say(f"The move was called off; the ledger goes on here: {head.seq} events, head {head.hash}.")
        return
    moved = workspace.home.move(place)
    here = moved.where == workspace.home.file
    if json:
        facts = {"to": str(moved.where), "events": moved.head.seq, "head": moved.head.hash, "earlier": moved.earlier}
        screen.print_json(facts | {"set_aside": moved.set_aside})
        return
    how = "was moved before" if moved.earlier else "was moved"
    screen.say(f"The ledger {how} to {moved.where}, and is sound: {moved.head.seq} events, head {moved.head.hash}.")
    if moved.set_aside:
        screen.say(f"The older one that lay there is kept under a name that ends with {moved.set_aside}.")
    screen.say(
        "Now take `url` out of [ledger] in challenge.toml."
        if here
        else f'Now write this into challenge.toml:\n\n[ledger]\nurl = "{moved.where}"'
    )


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
