"""What a bundle says it holds: every other file by size and digest. The signature is over these bytes."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from referee.audit.archive import MAX_MEMBER_BYTES, MAX_MEMBERS, wrong
from referee.challenge import Frozen
from referee.errors import LedgerError
from referee.ledger.chain import canonical_json

MANIFEST = "bundle.json"
SIGNATURE = "bundle.sig"
MAX_MANIFEST_BYTES = 64 * 2**20

HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Listed(Frozen):
    """A file in the bundle."""

    name: Annotated[str, Field(max_length=100)]
    size_bytes: int = Field(ge=0, le=MAX_MEMBER_BYTES)
    sha256: HexDigest


class LastEvent(Frozen):
    """The end of the chain."""

    seq: int = Field(ge=1)
    hash: HexDigest


class Manifest(Frozen):
    """`bundle.json`.

    Attributes:
        campaign: the ledger's random name.
        head: the chain's last event; whoever notes it can tell later whether the chain only grew.
        public_key: what the signature is to be checked with, `ed25519:…`.
        predictions: whether the prediction files are there, or only their digests.
        identities: whether names of teams and submissions are there.
        referee: the version that wrote it.
        files: all files but this one and the signature, in the order in which they stand.
    """

    format: Literal["referee-bundle-1"] = "referee-bundle-1"
    campaign: Annotated[str, Field(max_length=300)]
    head: LastEvent
    public_key: Annotated[str, Field(pattern=r"^ed25519:[0-9a-f]{64}$")]
    predictions: bool
    identities: bool
    referee: Annotated[str, Field(max_length=100)]
    files: tuple[Listed, ...] = Field(max_length=MAX_MEMBERS)

    def to_bytes(self) -> bytes:
        """The manifest as it is written and signed."""
        return (canonical_json(self.model_dump(mode="json")) + "\n").encode()


def read_manifest(data: bytes) -> Manifest:
    """The manifest in `data`.

    Raises:
        BundleError: if it is not one, or not written in the canonical way.
    """
    value = strict_json(data.removesuffix(b"\n"), MANIFEST)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise wrong(f"{MANIFEST} in the bundle is not a manifest of this version: {place}: {first['msg']}.") from error
    if manifest.to_bytes() != data:
        raise wrong(f"{MANIFEST} in the bundle is not written in the canonical way.")
    return manifest


def strict_json(data: bytes, where: str) -> Any:
    """Canonical JSON from a stranger: no NaN, no doubled keys, no depth without end, written in one way only.

    Raises:
        BundleError: naming `where`.
    """
    try:
        text = data.decode("ascii")
        value = json.loads(text)
        canonical = canonical_json(value)
    except (ValueError, RecursionError, LedgerError) as error:
        # Deep nesting ends in a RecursionError, numbers of thousands of digits in a ValueError.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise wrong(f"{where} in the bundle is not JSON as Referee writes it: {reason}.") from error
    if canonical != text:
        raise wrong(f"{where} in the bundle is not written in the canonical way.")
    return value
