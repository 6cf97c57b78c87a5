"""What a campaign under fire must have come to, judged by what lies outside the controller. Pure.

An evaluation is *lost* if it has no official verdict, or another one than in the undisturbed campaign; something is
*duplicated* if it was recorded, executed or kept twice; it is *mis-billed* if the bill does not say what the engine's
own record says, or if more was committed than was allowed. Everything else that is wrong is `other`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

_CENT = Decimal("0.01")
_HOUR = Decimal(3600)


class Breach(StrEnum):
    """What kind of promise was broken."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    MISBILLED = "mis-billed"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that must not be."""

    breach: Breach
    what: str


@dataclass(frozen=True, slots=True)
class Charge:
    """What was billed for one machine or attempt, and what the engine's own record says of it (seconds).

    Attributes:
        name: of the machine or the attempt.
        usd_per_hour: its price.
        billed_seconds: None if it is not in the bill.
        least_seconds: what is known to have been used.
        most_seconds: no more than this can have been used; None: nothing was.
    """

    name: str
    usd_per_hour: Decimal
    billed_seconds: Decimal | None
    least_seconds: Decimal
    most_seconds: Decimal | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found after a campaign.

    Attributes:
        calm: the verdict of each evaluation in the undisturbed campaign.
        verdicts: the official verdicts now.
        events: the ledger's, each with `kind` and `payload`.
        claims: the attempts that a worker claimed, by their objects.
        results: how many results lie in the object store for each attempt.
        executed: how often a submission's container was started for each attempt, seen on the machine.
        board, calm_board: as they are printed.
        charges: what was billed, against the engine's own record.
        billed_usd: what the bill comes to in all; None where the charges are all there is.
        committed_usd, allowed_usd: the most that was ever committed, and might be.
        left: what is left on the machine.
        odd: whatever else was seen that must not be.
    """

    calm: Mapping[str, str]
    verdicts: Mapping[str, str | None]
    events: Sequence[Mapping[str, Any]]
    claims: Sequence[str]
    results: Mapping[str, int]
    executed: Mapping[str, int]
    board: str
    calm_board: str
    charges: Sequence[Charge]
    billed_usd: Decimal | None = None
    committed_usd: Decimal = Decimal(0)
    allowed_usd: Decimal | None = None
    left: Sequence[str] = ()
    odd: Sequence[str] = field(default=())


def judge(found: Evidence) -> list[Wrong]:
    """Everything that is wrong, the worst first."""
    wrongs = [Wrong(Breach.LOST, what) for what in _lost(found)]
    wrongs += [Wrong(Breach.DUPLICATED, what) for what in _duplicated(found)]
    wrongs += [Wrong(Breach.MISBILLED, what) for what in _misbilled(found)]
    if found.board != found.calm_board:
        wrongs.append(Wrong(Breach.OTHER, "The board is not byte for byte that of the undisturbed campaign."))
    if found.claims and not found.executed:
        wrongs.append(Wrong(Breach.OTHER, "Nothing was seen to run: whoever counts the containers is blind."))
    wrongs += [Wrong(Breach.OTHER, f"Left behind: {each}") for each in found.left]
    return wrongs + [Wrong(Breach.OTHER, each) for each in found.odd]


def _lost(found: Evidence) -> Iterator[str]:
    for name, verdict in found.calm.items():
        now = found.verdicts.get(name)
        if now != verdict:
            yield f"{name}: {now or 'no verdict'} instead of {verdict}."
    official = {event["payload"]["evaluation"] for event in _of(found.events, "evaluation.ended")}
    for name in found.verdicts.keys() - official:
        yield f"{name}: its verdict is not in the chain."


def _duplicated(found: Evidence) -> Iterator[str]:
    for name in found.verdicts.keys() - found.calm.keys():
        yield f"{name}: an evaluation that the undisturbed campaign does not have."
    for kind, key in (
        ("attempt.planned", "attempt"),
        ("attempt.ended", "attempt"),
        ("evaluation.scored", "evaluation"),
    ):
        for name, times in Counter(event["payload"][key] for event in _of(found.events, kind)).items():
            if times > 1:
                yield f"{name}: {kind} {times} times."
    yield from _ended_twice(found.events)
    for what, counts in (("containers", found.executed), ("results", found.results), ("claims", Counter(found.claims))):
        for name, times in counts.items():
            if times > 1:
                yield f"{name}: {times} {what} for one attempt."
    planned = {event["payload"]["attempt"] for event in _of(found.events, "attempt.planned")}
    for name in {*found.executed, *found.claims} - planned:
        yield f"{name}: it was executed, and the ledger knows nothing of it."


def _ended_twice(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """An evaluation has one official end, unless the operator reopened it in between."""
    ended: set[str] = set()
    for event in events:
        if event["kind"] == "evaluation.ended":
            name = event["payload"]["evaluation"]
            if name in ended:
                yield f"{name}: it ended twice."
            ended.add(name)
        elif event["kind"] == "evaluation.reopened":
            ended.discard(event["payload"]["evaluation"])


def _misbilled(found: Evidence) -> Iterator[str]:
    for name, times in Counter(charge.name for charge in found.charges).items():
        if times > 1:
            yield f"{name}: it is billed {times} times."
    for charge in found.charges:
        if charge.billed_seconds is None:
            yield f"{charge.name}: {charge.least_seconds} s were used and are not in the bill."
        elif charge.most_seconds is None:
            yield f"{charge.name}: {charge.billed_seconds} s are billed, and the engine knows of no use."
        elif not charge.least_seconds <= charge.billed_seconds <= charge.most_seconds:
            between = f"between {charge.least_seconds} and {charge.most_seconds}"
            yield f"{charge.name}: {charge.billed_seconds} s are billed, and {between} were used."
    yield from _wrong_sum(found)
    if found.allowed_usd is not None and found.committed_usd > found.allowed_usd:
        yield f"${found.committed_usd} were committed, of ${found.allowed_usd} that were allowed."


def _wrong_sum(found: Evidence) -> Iterator[str]:
    if found.billed_usd is None:
        return
    least = sum((charge.usd_per_hour * charge.least_seconds / _HOUR for charge in found.charges), Decimal(0))
    most = sum((charge.usd_per_hour * (charge.most_seconds or 0) / _HOUR for charge in found.charges), Decimal(0))
    if not least.quantize(_CENT) <= found.billed_usd.quantize(_CENT) <= most.quantize(_CENT):
        yield f"${found.billed_usd} are billed, and by the engine's own record it is ${least} to ${most}."


def _of(events: Sequence[Mapping[str, Any]], kind: str) -> Iterator[Mapping[str, Any]]:
    return (event for event in events if event["kind"] == kind)
