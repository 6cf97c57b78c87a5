"""The machines of a stack: how long they live, which is what is paid for."""

from __future__ import annotations

from datetime import UTC, datetime

from referee.challenge import SPOT
from referee.engines.aws_batch_calls import BatchCalls
from referee.engines.machine_lives import MachineLife, note_lives, noted_lives
from referee.errors import HostError
from referee.objects import ObjectStore

TAG = "referee"
_OVER = {"shutting-down", "terminated", "stopped"}  # what EC2 does not bill any more


class Lives:
    """Notes the lives of a stack's machines, to the nearest look: AWS tells of an end for an hour only, or not at all.

    Args:
        calls: to AWS.
        objects: where they are noted.
        engine: for which.
        stack: whose tag the machines bear.
    """

    def __init__(self, calls: BatchCalls, objects: ObjectStore, engine: str, stack: str) -> None:
        self._calls, self._objects, self._engine, self._stack = calls, objects, engine, stack
        self._known: dict[str, MachineLife] | None = None

    def look(self) -> None:
        """Note what there is now. If AWS does not answer, nothing is noted."""
        try:
            seen = self._calls.machines(TAG, self._stack)
        except HostError:
            return
        if self._known is None:
            self._known = {life.node: life for life in noted_lives(self._objects, self._engine)}
        now = datetime.now(UTC)
        news = {
            each["InstanceId"]: MachineLife(
                node=each["InstanceId"],
                machine_type=each["InstanceType"] + (SPOT if each.get("InstanceLifecycle") == "spot" else ""),
                launched_at=each["LaunchTime"],
                seen_at=now,
                gone=each["State"]["Name"] in _OVER,
            )
            for each in seen
        }
        missing = {
            name: life.model_copy(update={"gone": True, "seen_at": now})
            for name, life in self._known.items()
            if name not in news
        }
        # The first time that a machine is seen gone is when its life ended; later looks change nothing.
        changed = {
            name: life
            for name, life in {**missing, **news}.items()
            if name not in self._known or not self._known[name].gone
        }
        note_lives(self._objects, self._engine, changed.values())
        self._known |= changed
