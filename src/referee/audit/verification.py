"""Checking a bundle without the operator's database, on any machine, and naming the first thing that is wrong.

A bundle is hostile input: nothing in it is unpacked, run or believed. What must follow from the chain is made again
from the chain, by the same functions that wrote it, and compared byte by byte.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from referee.audit import contents
from referee.audit.anchor import Anchor, anchor_of
from referee.audit.archive import Archive, wrong
from referee.audit.findings import Verified, verified
from referee.audit.manifest import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, Manifest, read_manifest, strict_json
from referee.audit.recomputation import recompute
from referee.audit.replay import replayed
from referee.audit.signing import is_signed
from referee.digests import digest_of
from referee.errors import ConfigurationError, LedgerError
from referee.ledger import AnchorPublished, Head, Identity, Ledger, Link, read_event, verify_links
from referee.ledger import queries as ask
from referee.ledger.chain import canonical_json
from referee.ledger.schema import EVALUATIONS, PHASES, REFUSALS, SUBMISSIONS
from referee.ledger.seals import labels_commitment

_LIST_BYTES = 256 * 2**20
_LINE_BYTES = 2**20
_CHAIN_BYTES = 2**30  # some twenty times that of 4,200 submissions on two phases
_MAX_EVENTS = 2_000_000
_SHOWN = 120
_LABELS = ("attempt", "evaluation", "submission", "rejudging", "series", "phase", "node", "seq")
_NONSENSE = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def verify_bundle(
    path: Path, *, labels: Sequence[Path] = (), anchors: Sequence[Anchor] = (), key: str | None = None
) -> Verified:
    """Check a bundle.

    Args:
        path: of the bundle.
        labels: label files that the auditor has; scores of their phases are computed again.
        anchors: lines that the operator gave out before.
        key: the public key that the operator is known by (`signing.public_key`).

    Raises:
        BundleError: naming the first thing that is wrong.
        ConfigurationError: if a file cannot be read, or a metric is not installed here.
    """
    with Archive(path) as archive:
        manifest = _manifest(archive)
        _check_signature(archive, manifest, key)
        links = _chain(archive, manifest)
        at_anchor: dict[int, dict[str, str | None]] = {}

        def look(connection: Connection, link: Link) -> None:
            if link.kind == AnchorPublished.kind:
                rows = connection.execute(select(PHASES.c.phase, PHASES.c.labels_digest))
                at_anchor[link.seq] = {row.phase: row.labels_digest for row in rows}

        with _explained(), replayed(links, look) as ledger:
            names = _check_derived(archive, ledger)
            names |= _check_phases(archive, ledger)
            names |= _check_predictions(archive, ledger, manifest)
            names |= _check_identities(archive, ledger, manifest)
            salts = _check_anchors(archive, links, at_anchor)
            _check_nothing_else(archive, names | {MANIFEST, SIGNATURE, contents.CHAIN, contents.ANCHORS})
            _check_digests(archive, manifest)
            _check_seals(ledger)
            for anchor in anchors:
                _check_against(anchor, manifest, links, salts, ledger)
            recomputed = recompute(archive, ledger, labels, with_predictions=manifest.predictions)
            return verified(manifest, links, ledger, recomputed, anchors, key)


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever else a hostile chain can trip, which no honest one does: it ends in a sentence, too."""
    try:
        yield
    except _NONSENSE as error:
        said = f"{type(error).__name__}: {str(error)[:200]!r}"
        raise wrong(f"Something in the bundle makes no sense ({said}).") from error


# The file, its manifest and its signature


def _manifest(archive: Archive) -> Manifest:
    manifest = read_manifest(archive.read(MANIFEST, MAX_MANIFEST_BYTES))
    listed = [MANIFEST, SIGNATURE, *(file.name for file in manifest.files)]
    if listed[2:] != sorted(set(listed[2:])):
        raise wrong(f"{MANIFEST} in the bundle lists its files out of order.")
    found = list(archive.members)
    if found != listed:
        missing, added = set(listed) - set(found), set(found) - set(listed)
        if missing:
            raise wrong(f"The bundle lacks {min(missing)}, which its manifest lists.")
        if added:
            raise wrong(f"The bundle holds {min(added)}, which its manifest does not list.")
        place = next(one for one, other in zip(found, listed, strict=True) if one != other)
        raise wrong(f"The files of the bundle are out of order, beginning with {place}.")
    for file in manifest.files:
        if archive.member(file.name).size_bytes != file.size_bytes:
            raise wrong(f"{file.name} in the bundle has not the size that the manifest lists.")
    return manifest


def _check_signature(archive: Archive, manifest: Manifest, key: str | None) -> None:
    if key is not None and manifest.public_key != key:
        raise wrong(f"The bundle is signed with {manifest.public_key}, not with the key that you gave ({key}).")
    signature = archive.read(SIGNATURE, 200)
    text = signature[:-1].decode("ascii", "replace")
    canonical = signature[-1:] == b"\n" and len(text) == 128 and set(text) <= set("0123456789abcdef")
    if not canonical or not is_signed(archive.read(MANIFEST, MAX_MANIFEST_BYTES), text, manifest.public_key):
        raise wrong(f"The signature does not fit {MANIFEST}: one of them was changed after signing.")


def _check_digests(archive: Archive, manifest: Manifest) -> None:
    for file in manifest.files:
        if archive.sha256(file.name) != file.sha256:
            raise wrong(f"{file.name} in the bundle was changed after signing.")


def _check_nothing_else(archive: Archive, accounted: set[str]) -> None:
    for name in archive.members:
        if name not in accounted:
            raise wrong(f"The bundle holds {name}, which nothing in its ledger accounts for.")


# The chain, and what follows from it


def _chain(archive: Archive, manifest: Manifest) -> list[Link]:
    if archive.member(contents.CHAIN).size_bytes > _CHAIN_BYTES:
        raise wrong(f"{contents.CHAIN} in the bundle is larger than {_CHAIN_BYTES} bytes.")
    links = []
    for number, line in enumerate(archive.lines(contents.CHAIN, contents.CHAIN_LINE_BYTES), start=1):
        if number > _MAX_EVENTS:
            raise wrong(f"{contents.CHAIN} in the bundle has more than {_MAX_EVENTS} events.")
        links.append(_link(strict_json(line, f"Event {number} in {contents.CHAIN}"), number))
    try:
        head = verify_links(links)
    except (LedgerError, RecursionError) as error:
        raise wrong(str(getattr(error, "message", error)).replace("The ledger", "The bundle's ledger")) from error
    if not links or head != Head(manifest.head.seq, manifest.head.hash):
        raise wrong(
            f"The bundle's ledger ends with event {head.seq}, and its manifest names event {manifest.head.seq}."
        )
    created = read_event(links[0].kind, links[0].payload) if links[0].kind == "ledger.created" else None
    if getattr(created, "campaign", None) != manifest.campaign:
        raise wrong("The bundle's ledger is not that of the campaign that its manifest names.")
    return links


_LINK_TYPES: dict[str, tuple[type, ...]] = {
    "epoch": (int, type(None)),
    "hash": (str,),
    "kind": (str,),
    "payload": (dict,),
    "prev": (str,),
    "seq": (int,),
    "time": (str,),
}


def _link(value: Any, number: int) -> Link:
    sound = isinstance(value, dict) and value.keys() == _LINK_TYPES.keys()
    if not sound or any(type(value[name]) not in types for name, types in _LINK_TYPES.items()):
        raise wrong(f"Event {number} in {contents.CHAIN} of the bundle has not the fields of an event.")
    return Link(**(value | {"payload": canonical_json(value["payload"])}))


def _check_derived(archive: Archive, ledger: Ledger) -> set[str]:
    names = set()
    try:
        for name, lines in contents.derived(ledger):
            names.add(name)
            _compare(archive, name, lines)
    except LedgerError as error:
        raise wrong(f"The bundle's ledger is not enough for a board: {error.message}") from error
    except ConfigurationError as error:
        if "metric" in error.message:
            raise  # not the bundle's fault: the metric's package is not installed here
        raise wrong(f"The bundle's ledger and its challenge do not fit: {error.message}") from error
    return names


def _compare(archive: Archive, name: str, lines: Iterable[bytes]) -> None:
    found = archive.lines(name, contents.CHAIN_LINE_BYTES)
    for number, (is_there, follows) in enumerate(itertools.zip_longest(found, lines), start=1):
        if follows is None:
            raise wrong(f"{name} in the bundle: row {number} follows from nothing: {_shown(is_there)}")
        if is_there is None:
            raise wrong(f"{name} in the bundle: row {number} is missing: {_shown(follows)}")
        if is_there + b"\n" != follows:
            how = _difference(is_there, follows)
            raise wrong(f"{name} in the bundle: row {number} is not what follows from the ledger: {how}.")


def _shown(line: bytes) -> str:
    text = line.decode("ascii", "backslashreplace").strip()
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")[1:-1] + "."


def _difference(is_there: bytes, follows: bytes) -> str:
    """How a row differs from what it should be: by field where both are rows of one table, else by its text."""
    row, found = _fields(follows), _fields(is_there)
    changed = [name for name in row if found[name] != row[name]] if row.keys() == found.keys() else []
    if not changed:
        return f"it says {_around(is_there, follows)} in place of {_around(follows, is_there)}"
    field = changed[0]
    label = next((str(row[name]) for name in _LABELS if row.get(name)), "it")
    shown = f"{json.dumps(found[field])[:_SHOWN]} in place of {json.dumps(row[field])[:_SHOWN]}"
    return f"of {label}, {field} is {shown}"


def _fields(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}  # a board's lines are no rows, and a stranger's need not be
    return value if isinstance(value, dict) else {}


def _around(line: bytes, other: bytes) -> str:
    """The part of a line where it begins to differ from the other."""
    same = next((p for p, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other)))
    return _shown(line[max(0, same - 40) : same + 40]).removesuffix(".")


# What the chain names by digest


def _check_phases(archive: Archive, ledger: Ledger) -> set[str]:
    names = set()
    for phase, row in ask.phases(ledger).items():
        name = contents.phase_name(phase)
        names.add(name)
        data = archive.read(name, _LIST_BYTES)
        if digest_of(data) != row.data_digest:
            raise wrong(f"{name} in the bundle is not the list of data that the ledger holds ({row.data_digest}).")
    return names


def _check_predictions(archive: Archive, ledger: Ledger, manifest: Manifest) -> set[str]:
    wanted = contents.wanted_predictions(ledger) if manifest.predictions else {}
    for digest in wanted:
        name = contents.predictions_name(digest)
        if name not in archive.members:
            raise wrong(f"The bundle lacks {name}, on which {_whose(ledger, digest)} rests.")
        if "sha256:" + archive.sha256(name) != digest:
            raise wrong(f"{name} in the bundle was changed: it is not what {_whose(ledger, digest)} rests on.")
    return {contents.predictions_name(digest) for digest in wanted}


def _whose(ledger: Ledger, digest: str) -> str:
    query = select(func.min(EVALUATIONS.c.evaluation)).where(EVALUATIONS.c.predictions_digest == digest)
    with ledger.read() as connection:
        return str(connection.execute(query).scalar() or "a score")


def _rows(archive: Archive, name: str, fields: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(archive.lines(name, _LINE_BYTES), start=1):
        value = strict_json(line, f"{name}, row {number}")
        if not isinstance(value, dict) or value.keys() != fields:
            raise wrong(f"{name} in the bundle: row {number} has not the fields {', '.join(sorted(fields))}.")
        yield number, value


def _check_identities(archive: Archive, ledger: Ledger, manifest: Manifest) -> set[str]:
    if not manifest.identities:
        return set()
    tables = (SUBMISSIONS, REFUSALS)
    with ledger.read() as connection:
        committed: dict[str, str] = {
            row.submission: row.identity_commitment
            for table in tables
            for row in connection.execute(select(table.c.submission, table.c.identity_commitment))
        }
    seen = []
    for number, value in _rows(archive, contents.IDENTITIES, set(Identity.__slots__)):
        if not all(isinstance(part, str) for part in value.values()):
            raise wrong(f"{contents.IDENTITIES} in the bundle: row {number} does not hold names.")
        who = Identity(**value)
        if committed.get(who.submission) != who.commitment:
            raise wrong(f"{contents.IDENTITIES} in the bundle: row {number} has other names than the chain commits to.")
        seen.append(who.submission)
    if seen != sorted(committed):
        odd = min(set(committed) ^ set(seen), default=seen[0])
        raise wrong(f"{contents.IDENTITIES} in the bundle does not name each submission once, in order; see {odd}.")
    return {contents.IDENTITIES}


# Anchors and seals


def _check_anchors(
    archive: Archive, links: Sequence[Link], at_anchor: dict[int, dict[str, str | None]]
) -> dict[int, str]:
    salts: list[tuple[int, str]] = []
    by_seq = {link.seq: link for link in links if link.kind == AnchorPublished.kind}
    for number, value in _rows(archive, contents.ANCHORS, {"salt", "seq"}):
        seq, salt = value["seq"], value["salt"]
        event = read_event(by_seq[seq].kind, by_seq[seq].payload) if type(seq) is int and seq in by_seq else None
        if not isinstance(event, AnchorPublished) or not isinstance(salt, str):
            raise wrong(f"{contents.ANCHORS} in the bundle: row {number} is of no anchor in the ledger.")
        labels = {phase: at_anchor[seq].get(phase) for phase in event.data}
        if labels_commitment(salt, labels) != event.labels:
            raise wrong(
                f"{contents.ANCHORS} in the bundle: with row {number} the anchor in event {seq} does not commit to the"
                " labels that the ledger held then."
            )
        salts.append((seq, salt))
    if [seq for seq, _ in salts] != sorted(by_seq):
        raise wrong(f"{contents.ANCHORS} in the bundle does not list every anchor in the ledger once, in order.")
    return dict(salts)


def _check_against(
    anchor: Anchor, manifest: Manifest, links: Sequence[Link], salts: dict[int, str], ledger: Ledger
) -> None:
    """Whether the chain goes on from an anchor, under the challenge, the data and the labels that it names."""
    if anchor.campaign != manifest.campaign:
        raise wrong(
            "The anchor is of another campaign than the bundle.", "Compare the line with the one you were given."
        )
    if not 1 <= anchor.seq <= len(links):
        raise wrong(f"The anchor names event {anchor.seq}, and the bundle's ledger ends with event {len(links)}.")
    link = links[anchor.seq - 1]
    event = read_event(link.kind, link.payload)
    said = anchor_of(manifest.campaign, link.seq, link.hash, event) if isinstance(event, AnchorPublished) else None
    if said is None or said.head != anchor.head:
        raise wrong(
            f"The bundle's ledger is not the one that was anchored: event {anchor.seq} or one before it differs."
        )
    for what in ("challenge", "data", "labels"):
        if getattr(said, what) != getattr(anchor, what):
            raise wrong(f"The anchor names another {what} than event {anchor.seq} of the bundle's ledger.")
    assert isinstance(event, AnchorPublished)  # noqa: S101 - else `said` were None
    recorded = ask.challenge(ledger)
    if recorded is None or recorded.digest != event.challenge:
        raise wrong("The challenge was changed after it was anchored.", "Compare the `challenge.recorded` events.")
    phases = ask.phases(ledger)
    for phase, digest in event.data.items():
        if phase not in phases or phases[phase].data_digest != digest:
            raise wrong(f"The data of {phase} were changed after they were anchored.")
    now = {phase: phases[phase].labels_digest for phase in event.data}
    if labels_commitment(salts[anchor.seq], now) != event.labels:
        raise wrong(f"The labels of {', '.join(now)} were changed after they were anchored.")


def _check_seals(ledger: Ledger) -> None:
    for phase, row in ask.seals(ledger).items():
        waiting = [one.evaluation for one in ask.sealed_scores(ledger, phase) if not one.opened]
        if waiting and not row.sealed:
            raise wrong(f"{phase} was unsealed, and the sealed score of {waiting[0]} was never opened.")
