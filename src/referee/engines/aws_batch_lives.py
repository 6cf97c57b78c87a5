"""The machines of a stack: how long they live, which is what is paid for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from referee.challenge import SPOT
from referee.engines.aws_batch_calls import BatchCalls
from referee.engines.machine_lives import MachineLife, note_lives, noted_lives
from referee.errors import HostError
from referee.objects import ObjectStore

TAG = "referee"
_OVER = {"shutting-down", "terminated", "stopped"}  # what EC2 does not bill any more
_ENDED_AT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)")


class Lives:
    """Notes the lives of a stack's machines. AWS tells of an end for an hour only, and mostly when it was.

    Args:
        calls: to AWS.
        objects: where they are noted.
        engine: for which.
        stack: whose tag the machines bear.
    """

    def __init__(self, calls: BatchCalls, objects: ObjectStore, engine: str, stack: str) -> None:
        self._calls, self._objects, self._engine, self._stack = calls, objects, engine, stack
        self._known: dict[str, MachineLife] | None = None

    def look(self) -> list[str] | None:
        """Note what there is now; returns the machines that are up. If AWS does not answer: nothing, and `None`."""
        try:
            seen = self._calls.machines(TAG, self._stack)
        except HostError:
            return None
        known = self._noted()
        now = datetime.now(UTC)
        news = {each["InstanceId"]: _life(each, now) for each in seen}
        missing = {
            name: life.model_copy(update={"gone": True, "end_unknown": True})
            for name, life in known.items()
            if name not in news
        }
        # The first time that a machine is seen gone says when its life ended; later looks change nothing.
        changed = {
            name: life for name, life in {**missing, **news}.items() if name not in known or not known[name].gone
        }
        if changed:
            note_lives(self._objects, self._engine, changed.values())
        known |= changed
        return sorted(name for name, life in known.items() if not life.gone)

    def known(self) -> list[MachineLife]:
        """The machines as they were noted last."""
        return list(self._noted().values())

    def _noted(self) -> dict[str, MachineLife]:
        if self._known is None:
            self._known = {life.node: life for life in noted_lives(self._objects, self._engine)}
        return self._known


def _life(told: Mapping[str, Any], now: datetime) -> MachineLife:
    gone = told["State"]["Name"] in _OVER
    ended = _ENDED_AT.search(told.get("StateTransitionReason", "")) if gone else None
    launched = told["LaunchTime"]
    at = datetime.strptime(ended[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) if ended else now
    return MachineLife(
        node=told["InstanceId"],
        machine_type=told["InstanceType"] + (SPOT if told.get("InstanceLifecycle") == "spot" else ""),
        launched_at=launched,
        seen_at=max(launched, at),
        gone=gone,
    )
