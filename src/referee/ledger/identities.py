"""The names behind the blind ids. Outside of the chain, so that they can be withheld; bound to it by a commitment."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from referee.digests import digest_of
from referee.ledger.chain import canonical_json


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a blind submission is. `salt` keeps the commitment from being guessed by trying names."""

    submission: str
    team: str
    submission_name: str
    team_name: str
    salt: str

    @classmethod
    def new(cls, submission: str, team: str, submission_name: str, team_name: str) -> Identity:
        """An identity with a fresh salt."""
        return cls(submission, team, submission_name, team_name, secrets.token_hex(16))

    @property
    def commitment(self) -> str:
        """SHA-256 over the canonical JSON of salt, blind ids and names."""
        text = canonical_json([self.salt, self.submission, self.team, self.submission_name, self.team_name])
        return digest_of(text)
