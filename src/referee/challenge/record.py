"""The challenge as the ledger records it."""

from __future__ import annotations

import json

from pydantic import ValidationError

from referee.challenge.whole import Challenge


def challenge_text(challenge: Challenge) -> str:
    """The challenge as JSON, without the place where it lies: what the ledger records.

    Keys stand in the order of the declaration and of the file: which public phase is the last one is told by it.
    """
    # Where ledger and objects are kept is nothing that is judged by, and may change while it goes on; so may a cache.
    kept = challenge.model_dump(mode="json", exclude={"folder", "ledger", "objects"})
    del kept["engine"]["image_cache"]
    return json.dumps(kept, separators=(",", ":"))


def recorded_as(text: str, challenge: Challenge) -> bool:
    """Whether a recorded text says the same as the challenge, by today's defaults for what it does not mention.

    A later version of Referee knows more keys than the one that recorded it: nobody has changed the challenge then, and
    anchors that were given out before still hold.
    """
    try:
        return challenge_text(Challenge.model_validate(json.loads(text))) == challenge_text(challenge)
    except (ValidationError, ValueError, RecursionError):
        return False
