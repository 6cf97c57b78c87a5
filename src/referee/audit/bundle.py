"""Writing a bundle: the same ledger, key and files give the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from referee import __version__
from referee.audit import contents
from referee.audit.anchor import anchor_salt
from referee.audit.archive import write_end, write_member
from referee.audit.manifest import MANIFEST, SIGNATURE, LastEvent, Listed, Manifest
from referee.audit.signing import SigningKey
from referee.digests import digest_of
from referee.errors import CheckFailedError, ConflictError, HostError
from referee.ledger import AnchorPublished, Identity, Ledger, queries
from referee.ledger.chain import canonical_json
from referee.objects import ObjectMissingError, ObjectStore

Chunks = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class _Part:
    """A file of the bundle: its size, its digest (64 hex digits), and its content, which is read once, when written."""

    size_bytes: int
    sha256: str
    chunks: Chunks


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a bundle holds besides what follows from the ledger.

    Attributes:
        data: for each recorded phase the text that its data digest is of (`phases.file_list_text`).
        predictions: where the prediction files are taken from; None leaves them out.
        identities: the names to tell; empty leaves them out.
    """

    data: Mapping[str, bytes]
    predictions: ObjectStore | None = None
    identities: Mapping[str, Identity] = field(default_factory=dict)


def write_bundle(target: Path, ledger: Ledger, key: SigningKey, holdings: Holdings) -> Manifest:
    """Check the ledger, and write the bundle of it to `target`: whole, or not at all.

    Raises:
        LedgerError: if the ledger is not sound.
        ConflictError: if something was recorded meanwhile.
        CheckFailedError: if a prediction file is missing, or is not the one that the ledger holds.
        HostError: if it cannot be written.
    """
    head = ledger.verify()
    campaign = queries.campaign(ledger).campaign
    files = dict(sorted(_files(ledger, campaign, key, holdings).items()))
    if ledger.head() != head:
        raise ConflictError("The ledger grew while the bundle was made.", hint="Try again when less is going on.")
    manifest = Manifest(
        campaign=campaign,
        head=LastEvent(seq=head.seq, hash=head.hash),
        public_key=key.public,
        predictions=holdings.predictions is not None,
        identities=bool(holdings.identities),
        referee=__version__,
        files=tuple(Listed(name=n, size_bytes=one.size_bytes, sha256=one.sha256) for n, one in files.items()),
    )
    try:
        with _replacing(target) as file:
            _write(file, manifest, key, files)
    except OSError as error:
        raise HostError(
            f"{target} cannot be written: {error.strerror}.", hint="Check the folder's permissions and room."
        ) from error
    return manifest


def _files(ledger: Ledger, campaign: str, key: SigningKey, holdings: Holdings) -> dict[str, _Part]:
    files: dict[str, _Part] = {contents.CHAIN: _held(b"".join(contents.chain_lines(ledger.links())))}
    for name, lines in contents.derived(ledger):
        files[name] = _held(b"".join(lines))
    files[contents.ANCHORS] = _held(b"".join(_anchor_lines(ledger, campaign, key)))
    for phase, text in holdings.data.items():
        files[contents.phase_name(phase)] = _held(text)
    if holdings.identities:
        rows = (
            {name: getattr(who, name) for name in Identity.__slots__} for _, who in sorted(holdings.identities.items())
        )
        files[contents.IDENTITIES] = _held(b"".join((canonical_json(row) + "\n").encode() for row in rows))
    if holdings.predictions is not None:
        for digest, place in contents.wanted_predictions(ledger).items():
            files[contents.predictions_name(digest)] = _stored(holdings.predictions, place, digest)
    return files


def _anchor_lines(ledger: Ledger, campaign: str, key: SigningKey) -> Iterator[bytes]:
    for recorded in ledger.events(AnchorPublished):
        event = recorded.event
        if isinstance(event, AnchorPublished):
            salt = anchor_salt(key, campaign, event.challenge, event.data)
            yield (canonical_json({"salt": salt, "seq": recorded.seq}) + "\n").encode()


def _held(data: bytes) -> _Part:
    return _Part(len(data), hashlib.sha256(data).hexdigest(), lambda: iter([data]))


def _stored(store: ObjectStore, place: str, digest: str) -> _Part:
    """A prediction file: what it has to be is known, so its content is read and checked only when it is written."""
    gone = CheckFailedError(
        f"The predictions {place} are not in the object store any more.",
        hint="Restore them from a copy, or leave all predictions out with --without-predictions.",
    )

    def read() -> Iterator[bytes]:
        try:
            data = store.get(place)
        except ObjectMissingError as error:
            raise gone from error
        if digest_of(data) != digest:
            raise CheckFailedError(
                f"The predictions {place} are not those that the ledger holds ({digest}): they were changed.",
                hint="Restore them from a copy, and find out who changed them.",
            )
        yield data

    size = store.size(place)
    if size is None:
        raise gone
    return _Part(size, digest.removeprefix("sha256:"), read)


def _write(file: IO[bytes], manifest: Manifest, key: SigningKey, files: Mapping[str, _Part]) -> None:
    text = manifest.to_bytes()
    write_member(file, MANIFEST, iter([text]), len(text))
    signature = (key.sign(text) + "\n").encode()
    write_member(file, SIGNATURE, iter([signature]), len(signature))
    for name, part in files.items():
        write_member(file, name, part.chunks(), part.size_bytes)
    write_end(file)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
