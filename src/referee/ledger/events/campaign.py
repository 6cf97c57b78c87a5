"""What is recorded of the campaign and what it is about: challenge, phases, submissions, accepted risks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from referee.ledger.events.event import Digest, Event, Name, Prose


class LedgerCreated(Event, kind="ledger.created"):
    """The first event. `campaign` is a random name, unique to this ledger."""

    campaign: Name
    challenge_name: Name


class ChallengeRecorded(Event, kind="challenge.recorded"):
    """The whole text of the challenge as it was used from here on, and its digest."""

    digest: Digest
    content: str


class PhaseRecorded(Event, kind="phase.recorded"):
    """A phase's data and labels, by digest. `files` is their number."""

    phase: Name
    data_digest: Digest
    files: int = Field(ge=0)
    labels_digest: Digest | None = None


class SubmissionImported(Event, kind="submission.imported"):
    """A submission under its blind ids; the names are outside of the chain, bound by `identity_commitment`."""

    submission: Name
    team: Name
    submission_kind: Literal["cpu", "gpu"]
    image: Digest
    identity_commitment: Digest
    public_score: float | None = None
    public_runtime_seconds: float | None = None
    same_image_as: Name | None = None


class SubmissionRefused(Event, kind="submission.refused"):
    """A submission whose image was not accepted; `reason` says why. A later import of a mended image lifts it."""

    submission: Name
    team: Name
    submission_kind: Literal["cpu", "gpu"]
    identity_commitment: Digest
    reason: Prose


class IdentitiesUnblinded(Event, kind="identities.unblinded"):
    """Names were shown: by which command, and why."""

    command: Name
    reason: Prose = ""


class RiskAccepted(Event, kind="risk.accepted"):
    """The operator accepted, by name, a risk that the sandbox cannot rule out."""

    name: Name
    reason: Prose = ""


class CampaignFinished(Event, kind="campaign.finished", by_controller=True):
    """Every evaluation of the phase has ended."""

    phase: Name
