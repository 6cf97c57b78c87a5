"""The claim of an attempt: whoever creates it executes it, so that a doubled submission is executed once."""

from __future__ import annotations

import json
import secrets

from referee.objects import AlreadyExistsError, ObjectStore


def claim_key(attempt: str) -> str:
    """Where the claim of `attempt` lies in the object store."""
    return f"claims/{attempt}.json"


def claim(objects: ObjectStore, attempt: str, *, job: str, node: str, boot_id: str) -> bool:
    """Claim the attempt for this process; False if another one was first.

    Args:
        objects: the store that all workers of the campaign share.
        attempt: its name.
        job: the engine's name for it.
        node: this machine.
        boot_id: of this boot of it.
    """
    # The nonce makes this process's claim unlike any other's, so that "the same bytes" can only mean its own.
    facts = {"attempt": attempt, "job": job, "node": node, "boot_id": boot_id, "nonce": secrets.token_hex(16)}
    try:
        objects.put_once(claim_key(attempt), json.dumps(facts).encode())
    except AlreadyExistsError:
        return False
    return True


def note_duplicate(objects: ObjectStore, attempt: str, *, job: str, node: str, boot_id: str) -> None:
    """Leave a note that this process was one too many, so that the controller can record it (`attempt.fenced`)."""
    facts = {"attempt": attempt, "job": job, "node": node, "boot_id": boot_id}
    objects.put_once(f"duplicates/{attempt}/{secrets.token_hex(8)}.json", json.dumps(facts).encode())
