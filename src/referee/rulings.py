"""Rulings: what an operator decides about a submission by hand, and which decisions make sense after which.

Pure. A ruling never deletes anything: evaluations and scores stay in the ledger, and the board says what was ruled.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Ruling(StrEnum):
    """What was decided.

    `disqualify` and `withdraw` take a submission off the board, by the host's or its team's will; `reinstate` puts it
    back. `admit` lets a submission that did not reproduce onto the private phase all the same.
    """

    DISQUALIFY = "disqualify"
    WITHDRAW = "withdraw"
    REINSTATE = "reinstate"
    ADMIT = "admit"


PAST: dict[Ruling, str] = {
    Ruling.DISQUALIFY: "disqualified",
    Ruling.WITHDRAW: "withdrawn",
    Ruling.REINSTATE: "reinstated",
    Ruling.ADMIT: "admitted",
}


def taken_off(rulings: Sequence[Ruling]) -> Ruling | None:
    """The ruling that keeps a submission off the board, after all rulings on it in order; None if it stands."""
    found = None
    for ruling in rulings:
        if ruling in {Ruling.DISQUALIFY, Ruling.WITHDRAW}:
            found = ruling
        elif ruling is Ruling.REINSTATE:
            found = None
    return found


def objection(earlier: Sequence[Ruling], ruling: Ruling) -> str | None:
    """Why `ruling` makes no sense after the `earlier` ones on the same submission; None if it does."""
    off = taken_off(earlier)
    if ruling is Ruling.ADMIT:
        return "it is admitted already" if Ruling.ADMIT in earlier else None
    if ruling is Ruling.REINSTATE:
        return None if off else "it stands: nothing keeps it off the board"
    # Who withdrew can still be found out; who is disqualified cannot avoid that by withdrawing.
    if off is None or (off is Ruling.WITHDRAW and ruling is Ruling.DISQUALIFY):
        return None
    return f"it is {PAST[off]} already"
