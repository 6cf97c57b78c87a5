"""Sealed scores: computed, committed to, encrypted, and shown to nobody before release.

What this is worth: the key lies beside the ledger, and whoever has the labels can compute the scores. Sealing prevents
accident (a glance, a page, a log), not malice. What binds the operator is the commitment: after release only the very
scores that were sealed can be opened, and anybody can check that they were.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from referee.errors import ConfigurationError, ConflictError
from referee.ledger import EvaluationScored, EvaluationSealed, Ledger, queries
from referee.ledger.chain import canonical_json
from referee.ledger.queries import ScoreRow
from referee.ledger.seals import score_commitment
from referee.secret_file import open_secret

_SALT_BYTES = 32


def refuse_sealed(ledger: Ledger, phase: str) -> None:
    """The gate: every command that would show scores of a phase, or what follows from them, passes here first.

    Raises:
        ConflictError: while the phase is sealed.
    """
    if is_sealed(ledger, phase):
        raise ConflictError(
            f"The scores on {phase} are sealed, and this command would show them.",
            hint=f"When they may be seen: `referee unseal --phase {phase} --reason TEXT` releases them for good.",
        )


def is_sealed(ledger: Ledger, phase: str) -> bool:
    """Whether scores on a phase are sealed now."""
    row = queries.seals(ledger).get(phase)
    return row is not None and row.sealed


class SealKey:
    """The key that sealed scores are encrypted under (Fernet: AES-128-CBC and HMAC-SHA-256)."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    @classmethod
    def open(cls, path: Path) -> SealKey:
        """The key in `path`, made if there is none; only this user can read it.

        Raises:
            HostError: it cannot be read or made.
            ConfigurationError: it is not a key, or others can read it.
        """
        key = open_secret(path, "seal key", Fernet.generate_key)
        try:
            return cls(key.strip())
        except ValueError as error:
            raise ConfigurationError(
                f"{path} is not a seal key.", hint="Restore it from a backup: no other key opens the sealed scores."
            ) from error

    def seal(self, scored: EvaluationScored) -> EvaluationSealed:
        """The event that commits to these scores without showing them."""
        salt = secrets.token_hex(_SALT_BYTES)
        opened = scored.model_copy(update={"salt": salt})
        return EvaluationSealed(
            evaluation=scored.evaluation,
            metrics=tuple(sorted(scored.scores)),
            commitment=_commitment(opened),
            sealed=self._fernet.encrypt(canonical_json(opened.payload()).encode()).decode(),
            predictions_digest=scored.predictions_digest,
            labels_digest=scored.labels_digest,
            scorer_version=scored.scorer_version,
            epsilon=scored.epsilon,
        )

    def open_scores(self, sealed: EvaluationSealed) -> EvaluationScored:
        """The scores that were sealed.

        Raises:
            ConfigurationError: if this is not the key that they were sealed with.
        """
        try:
            opened = EvaluationScored.model_validate_json(self._fernet.decrypt(sealed.sealed))
        except (InvalidToken, ValueError) as error:
            raise ConfigurationError(
                f"The sealed scores of {sealed.evaluation} cannot be opened with this seal key.",
                hint="Restore .referee/seal.key from a backup.",
            ) from error
        if _commitment(opened) != sealed.commitment:
            raise ConfigurationError(
                f"The sealed scores of {sealed.evaluation} are not those that were committed to.",
                hint="Find out who wrote this event; nothing was opened.",
            )
        return opened


def waiting(ledger: Ledger, phase: str) -> Iterator[EvaluationSealed]:
    """What was sealed on a phase and was not opened, in order."""
    closed = {row.seq for row in queries.sealed_scores(ledger, phase) if not row.opened}
    for recorded in ledger.events(EvaluationSealed):
        if recorded.seq in closed and isinstance(recorded.event, EvaluationSealed):
            yield recorded.event


def scored_under_seal(ledger: Ledger, phase: str) -> tuple[ScoreRow, ...]:
    """What needs no scoring any more because it was sealed, as rows without values (NaN)."""
    return tuple(
        ScoreRow(
            evaluation=event.evaluation,
            submission="",
            metric=metric,
            value=math.nan,
            predictions_digest=event.predictions_digest,
            labels_digest=event.labels_digest,
            scorer_version=event.scorer_version,
        )
        for event in waiting(ledger, phase)
        for metric in event.metrics
    )


def _commitment(opened: EvaluationScored) -> str:
    return score_commitment(
        opened.salt or "",
        opened.evaluation,
        opened.scores,
        predictions_digest=opened.predictions_digest,
        labels_digest=opened.labels_digest,
        scorer_version=opened.scorer_version,
        epsilon=opened.epsilon,
    )
