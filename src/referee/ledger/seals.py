"""The events that bind the operator: what was promised to third parties, scores that nobody sees before release, and
what another platform's public board said."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from referee.challenge import Frozen
from referee.digests import digest_of
from referee.ledger.chain import canonical_json
from referee.ledger.events import Digest, Event, FloatText, Name, Prose


class AnchorPublished(Event, kind="anchor.published"):
    """A line was printed for third parties that commits to everything up to and with this event.

    `data` has the data's digest for each phase; `labels` is a salted commitment to the labels' digests of those
    phases (`labels_commitment`). The salt is told in bundles, not here.
    """

    challenge: Digest
    data: dict[Name, Digest] = Field(min_length=1)
    labels: Digest


def data_commitment(data: Mapping[str, str]) -> str:
    """SHA-256 (hex digits) over the digests of all phases' data."""
    return hashlib.sha256(canonical_json(dict(data)).encode()).hexdigest()


def labels_commitment(salt: str, labels: Mapping[str, str | None]) -> str:
    """`sha256:…` over the salt and the labels' digests by phase; without the salt no labels can be tried against it."""
    return digest_of(canonical_json(["labels", salt, dict(labels)]))


class PublicStanding(Frozen):
    """What another platform's public leaderboard says of a submission."""

    score: FloatText
    rank: int = Field(ge=1)


class PublicBoardRecorded(Event, kind="public_board.recorded"):
    """Another platform's public leaderboard was read: of these submissions it is the recorded public score.

    `digest` is of the file, `teams` how many it had; the last one that was recorded counts.
    """

    platform: Name
    digest: Digest
    teams: int = Field(ge=0)
    standings: dict[Name, PublicStanding]


class PhaseSealed(Event, kind="phase.sealed"):
    """From here on scores on the phase are kept sealed, and are shown to nobody."""

    phase: Name
    reason: Prose = ""


class PhaseUnsealed(Event, kind="phase.unsealed"):
    """Scores on the phase may be seen from here on; the sealed ones are opened by the events that follow."""

    phase: Name
    reason: Annotated[Prose, Field(min_length=1)]


class EvaluationSealed(Event, kind="evaluation.sealed"):
    """An evaluation was scored while its phase is sealed.

    Attributes:
        metrics: names of what it was scored by.
        commitment: `score_commitment` of the scores, under a salt that is told when they are opened.
        sealed: scores and salt, encrypted under a key that never leaves the operator's machine.
    """

    evaluation: Name
    metrics: tuple[Name, ...] = Field(min_length=1)
    commitment: Digest
    sealed: Annotated[str, Field(min_length=1, max_length=100_000, pattern=r"^[A-Za-z0-9_=-]+$")]
    predictions_digest: Digest
    labels_digest: Digest
    scorer_version: Name
    epsilon: FloatText | None = None


def score_commitment(
    salt: str,
    evaluation: str,
    scores: Mapping[str, str],
    *,
    predictions_digest: str,
    labels_digest: str,
    scorer_version: str,
    epsilon: str | None,
) -> str:
    """`sha256:…` over the salt and everything that a score event says."""
    text = canonical_json([salt, evaluation, dict(scores), predictions_digest, labels_digest, scorer_version, epsilon])
    return digest_of(text)
