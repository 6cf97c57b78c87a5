"""How long machines of a fleet lived: what is paid for is a machine's life, not the attempts on it.

An engine that starts machines notes each as it sees it, in the object store; what is noted last is the truth so far.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pydantic import ValidationError

from referee.challenge import Frozen
from referee.errors import ObjectStoreError
from referee.objects import ObjectStore

_LIMIT_BYTES = 1 << 16


class MachineLife(Frozen):
    """One machine.

    Attributes:
        node: its name, as in results.
        machine_type: what it was bought as.
        launched_at: when it was asked for; from then on it is paid for.
        seen_at: when it was last seen up, or first seen gone.
        gone: whether it is.
    """

    node: str
    machine_type: str
    launched_at: datetime
    seen_at: datetime
    gone: bool = False


def note_lives(objects: ObjectStore, engine: str, lives: Iterable[MachineLife]) -> None:
    """Keep what is known of these machines, in place of what was known."""
    for life in lives:
        objects.put(f"nodes/{engine}/{life.node}.json", life.model_dump_json().encode())


def noted_lives(objects: ObjectStore, engine: str) -> list[MachineLife]:
    """The machines that were noted.

    Raises:
        ObjectStoreError: if a note is damaged.
    """
    found = []
    for key in objects.list(f"nodes/{engine}"):
        try:
            found.append(MachineLife.model_validate_json(objects.get(key, limit_bytes=_LIMIT_BYTES)))
        except ValidationError as error:
            raise ObjectStoreError(f"{key} is damaged.", hint="Remove it; the bill lacks this machine then.") from error
    return found
