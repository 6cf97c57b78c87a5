"""The hash chain: how an event becomes bytes, how bytes become a link, and how a chain is checked.

Pure; the auditor's `verify` uses the same functions without any database. Canonical JSON here is: keys sorted,
no blanks, ASCII only, numbers as Python writes them (`repr` of a float is the shortest text that reads back as
the same float), no NaN or infinity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from referee.errors import LedgerError

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Link:
    """One event as it is stored. `time` is UTC with microseconds, `payload` canonical JSON, hashes hex digits."""

    seq: int
    prev: str
    time: str
    epoch: int | None
    kind: str
    payload: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last link of a chain: whoever knows it can tell whether anything before it was changed."""

    seq: int
    hash: str


EMPTY = Head(0, GENESIS)


def canonical_json(value: Any) -> str:
    """`value` as canonical JSON.

    Raises:
        LedgerError: for NaN, an infinity, or something that JSON does not know.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LedgerError(
            f"A value cannot be written to the ledger: {error}.",
            hint="This is a defect of Referee; please report it with the command that you ran.",
        ) from error


def format_time(moment: datetime) -> str:
    """`moment` (aware) in UTC, always with six digits of a second, so that equal times are equal text."""
    if moment.tzinfo is None:
        raise LedgerError("A time without a time zone cannot be written to the ledger.", hint="Give it in UTC.")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """The inverse of `format_time`."""
    return datetime.fromisoformat(text)


def link_hash(link: Link) -> str:
    """SHA-256 over the canonical JSON of everything in the link but the hash itself.

    The payload must be canonical JSON already; it is put in as it stands (`epoch` < `kind` < `payload` < `prev` <
    `seq` < `time` is the sorted order), so that the hash covers the very bytes that are stored.
    """
    outer = (
        f'{{"epoch":{canonical_json(link.epoch)},"kind":{canonical_json(link.kind)},"payload":{link.payload},'
        f'"prev":{canonical_json(link.prev)},"seq":{canonical_json(link.seq)},"time":{canonical_json(link.time)}}}'
    )
    return hashlib.sha256(outer.encode("ascii", errors="backslashreplace")).hexdigest()


def next_link(head: Head, moment: datetime, epoch: int | None, kind: str, payload: Any) -> Link:
    """The link that follows `head`."""
    unsealed = Link(head.seq + 1, head.hash, format_time(moment), epoch, kind, canonical_json(payload), "")
    return replace(unsealed, hash=link_hash(unsealed))


def verify_links(links: Iterable[Link], *, start: Head = EMPTY) -> Head:
    """Walk a chain, in the order given, from `start` to its end.

    Returns:
        The head that was reached.

    Raises:
        LedgerError: naming the first event that is wrong, and how.
    """
    head = start
    epoch = 0
    for link in links:
        if link.seq != head.seq + 1:
            raise _broken(link.seq, f"it follows event {head.seq}: events are missing, doubled or out of order")
        if link.prev != head.hash:
            raise _broken(link.seq, "it does not name the hash of the event before it")
        _check_text(link)
        if link.hash != link_hash(link):
            raise _broken(link.seq, "its content does not match its hash: it was changed after it was written")
        if link.epoch is not None:
            if link.epoch < epoch:
                raise _broken(link.seq, f"it was written by controller {link.epoch} after controller {epoch} took over")
            epoch = link.epoch
        head = Head(link.seq, link.hash)
    return head


def _check_text(link: Link) -> None:
    try:
        canonical = canonical_json(json.loads(link.payload))
        time = format_time(parse_time(link.time))
    except (ValueError, LedgerError) as error:
        raise _broken(link.seq, f"it cannot be read ({error})") from error
    if (canonical, time) != (link.payload, link.time):
        raise _broken(link.seq, "its payload or its time is not written in the canonical way")


def _broken(seq: int, what: str) -> LedgerError:
    return LedgerError(
        f"The ledger is broken at event {seq}: {what}.",
        hint="Restore the ledger from a copy, and find out who changed this one.",
    )
