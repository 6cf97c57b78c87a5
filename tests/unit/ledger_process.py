"""A second process for the ledger's tests. Run as a script: PATH and what to do. It speaks on its standard output."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert

from referee.ledger import Ledger, NodeProved, RiskAccepted
from referee.ledger.chain import Head, Link, next_link
from referee.ledger.relocation import relocate
from referee.ledger.schema import EVENTS
from referee.ledger.store import database_at


def say(text: object) -> None:
    print(text, flush=True)


def append(ledger: Ledger, mark: str, count: int) -> None:
    say("ready")
    sys.stdin.readline()
    for number in range(count):
        ledger.append([RiskAccepted(name=f"{mark}-{number}")])


def lead(ledger: Ledger) -> None:
    with ledger.lead(host="elsewhere") as lease:
        say(lease.epoch)
        time.sleep(600)


def lead_and_write(ledger: Ledger) -> None:
    # Each number is said only after it was appended: what was said must survive.
    with ledger.lead(host="elsewhere") as lease:
        for number in range(10**6):
            name = f"{lease.epoch}-{number}"
            lease.append([NodeProved(node=name, boot_id="b", level="runc", checks=part) for part in range(3)])
            say(name)


def lead_and_fork(ledger: Ledger) -> None:
    with ledger.lead(host="elsewhere"):
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        say(child)
        time.sleep(600)


def stop_between_statements(ledger: Ledger) -> None:
    with ledger.database.writing() as connection:
        last = ledger.links()[-1]
        link = next_link(
            Head(last.seq, last.hash), datetime.now(UTC), None, "risk.accepted", {"name": "x", "reason": ""}
        )
        connection.execute(insert(EVENTS), [{name: getattr(link, name) for name in Link.__slots__}])
        say("events are inserted")
        time.sleep(600)


def move(ledger: Ledger, to: str) -> None:
    say("ready")
    with contextlib.closing(database_at(to if "://" in to else Path(to))) as target:
        relocate(ledger, target)


def main() -> None:
    where = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    with Ledger.open(where) as ledger:
        match sys.argv[2:]:
            case ["append", mark, count]:
                append(ledger, mark, int(count))
            case ["stop_between_statements"]:
                stop_between_statements(ledger)
            case ["relocate", to]:
                move(ledger, to)
            case ["lead"]:
                lead(ledger)
            case ["lead_and_write"]:
                lead_and_write(ledger)
            case ["lead_and_fork"]:
                lead_and_fork(ledger)


if __name__ == "__main__":
    main()
