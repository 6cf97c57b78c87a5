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

_LIMIT_BYTES = 1 << 24


class MachineLife(Frozen):
    """One machine.

    Attributes:
        node: its name, as in results.
        machine_type: what it was bought as.
        launched_at: when it was asked for; from then on it is paid for.
        seen_at: when it ended, or was last seen up.
        gone: whether it is.
        end_unknown: whether it ended while nobody looked, some time after `seen_at`.
    """

    node: str
    machine_type: str
    launched_at: datetime
    seen_at: datetime
    gone: bool = False
    end_unknown: bool = False


class _Up(Frozen):
    """The machines that were up when an engine looked last."""

    lives: tuple[MachineLife, ...]


def note_lives(objects: ObjectStore, engine: str, lives: Iterable[MachineLife]) -> None:
    """Keep what is known: of machines that are gone one note each, for ever; those that are up, all of them, in one.

    A fleet is looked at often, so that a note for each machine and look would be a hundred thousand in a campaign.
    """
    up = []
    for life in lives:
        if life.gone:
            objects.put(f"nodes/{engine}/{life.node}.json", life.model_dump_json().encode())
        else:
            up.append(life)
    objects.put(_up_key(engine), _Up(lives=tuple(up)).model_dump_json().encode())


def noted_lives(objects: ObjectStore, engine: str) -> list[MachineLife]:
    """The machines that were noted.

    Raises:
        ObjectStoreError: if a note is damaged.
    """
    found: dict[str, MachineLife] = {}
    for key in objects.list(f"nodes/{engine}"):
        data = objects.get(key, limit_bytes=_LIMIT_BYTES)
        try:
            one = key != _up_key(engine)
            lives = (MachineLife.model_validate_json(data),) if one else _Up.model_validate_json(data).lives
        except ValidationError as error:
            raise ObjectStoreError(f"{key} is damaged.", hint="Remove it; the bill lacks its machines then.") from error
        for life in lives:
            known = found.get(life.node, life)
            found[life.node] = max(known, life, key=lambda one: (one.gone, one.seen_at))
    return list(found.values())


def _up_key(engine: str) -> str:
    return f"nodes/{engine}/up.json"
