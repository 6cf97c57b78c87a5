"""The anchor: one short line, given to third parties before a campaign starts, to which the operator is then bound.

    referee-anchor:1:CAMPAIGN:SEQ:HEAD:CHALLENGE:DATA:LABELS

HEAD is the hash of event SEQ, so of everything before it too; CHALLENGE and DATA are digests, LABELS is a salted
commitment. Each is 32 bytes in 43 characters (RFC 4648, section 5, without padding).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from referee.audit.signing import SigningKey, short
from referee.errors import ConfigurationError
from referee.ledger import AnchorPublished, Recorded
from referee.ledger.chain import canonical_json
from referee.ledger.seals import data_commitment, labels_commitment

_LINE = re.compile(
    r"referee-anchor:1:(?P<campaign>[A-Za-z0-9_-]{1,64}):(?P<seq>[0-9]{1,12}):(?P<head>[\w-]{43}):"
    r"(?P<challenge>[\w-]{43}):(?P<data>[\w-]{43}):(?P<labels>[\w-]{43})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A line, read."""

    campaign: str
    seq: int
    head: str
    challenge: str
    data: str
    labels: str

    @property
    def line(self) -> str:
        """The line."""
        parts = (self.campaign, str(self.seq), self.head, self.challenge, self.data, self.labels)
        return "referee-anchor:1:" + ":".join(parts)


def parse_anchor(text: str) -> Anchor:
    """Read a line.

    Raises:
        ConfigurationError: if it is none.
    """
    match = _LINE.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(
            f"{text.strip()[:80]!r} is not an anchor's line.",
            hint="It begins with referee-anchor:1: and has six parts after that; copy the whole line.",
        )
    return Anchor(
        match["campaign"], int(match["seq"]), match["head"], match["challenge"], match["data"], match["labels"]
    )


def new_anchor(
    key: SigningKey, campaign: str, challenge: str, data: Mapping[str, str], labels: Mapping[str, str | None]
) -> AnchorPublished:
    """The event that commits to a challenge, its data and its labels, all by digest."""
    commitment = labels_commitment(anchor_salt(key, campaign, challenge, data), labels)
    return AnchorPublished(challenge=challenge, data=dict(data), labels=commitment)


def anchor_salt(key: SigningKey, campaign: str, challenge: str, data: Mapping[str, str]) -> str:
    """The salt of an anchor's commitment to the labels. It follows from the key, and is told in bundles."""
    return key.salt(canonical_json(["anchor", campaign, challenge, dict(data)]))


def published_line(campaign: str, recorded: Recorded) -> str:
    """The line of an anchor that was recorded."""
    event = recorded.event
    assert isinstance(event, AnchorPublished)  # noqa: S101 - the caller asked for it by its kind
    return anchor_of(campaign, recorded.seq, recorded.hash, event).line


def anchor_of(campaign: str, seq: int, head: str, event: AnchorPublished) -> Anchor:
    """The anchor that the event `seq` with the hash `head` stands for."""
    return Anchor(
        campaign,
        seq,
        short(bytes.fromhex(head)),
        *(
            short(bytes.fromhex(digest.removeprefix("sha256:")))
            for digest in (event.challenge, data_commitment(event.data), event.labels)
        ),
    )
