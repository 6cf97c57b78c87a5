"""Queues of AWS Batch in which nothing moves: what waits there is taken back, with the reason and the mend."""

from __future__ import annotations

import math
from collections.abc import Callable

from referee.engines.aws_batch_calls import BatchCalls
from referee.engines.aws_batch_fleet import Fleet
from referee.engines.aws_batch_follow import ENDED, RUNNING, WAITING, Array, Child, Following
from referee.engines.aws_batch_stack import Patience, Stack
from referee.engines.shortages import Shortages
from referee.errors import HostError
from referee.verdicts import Verdict

_IMPOSSIBLE = ("MISCONFIGURATION", "ACTION_REQUIRED")  # how Batch begins a reason that waiting does not mend
_IN_VAIN = (*_IMPOSSIBLE, "CAPACITY")  # or that its queue's own limits on waiting bear (`cloud.compute.STUCK`)
_LOWER = "Lower the challenge's limits, or correct the machine type's memory and the stack."
_ASK = "Ask AWS for a higher quota, allow another machine type or zone, or try again later."


class Jams:
    """Looks after what waits.

    Args:
        calls: to AWS.
        following: the jobs.
        stack: whose queues they are in.
        fleet: the machine types.
        patience: for how long a machine is waited for, and a type left alone.
        clock: seconds.

    Attributes:
        shortages: what cannot be had now, with the reason and the mend.
    """

    def __init__(
        self,
        calls: BatchCalls,
        following: Following,
        stack: Stack,
        fleet: Fleet,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        self._calls, self._following, self._stack, self._fleet = calls, following, stack, fleet
        self._patience, self._clock = patience, clock
        self.shortages = Shortages(clock)
        self._taken_back: dict[int, Verdict] = {}

    def lost_as(self, child: Child) -> Verdict:
        """What the end of a job means without a result: no machine can run it, it was taken back, or its node is lost.

        What was taken back began nowhere, and says nothing about the machines.
        """
        by_batch = Verdict.INTERRUPTED if child.reason.startswith(_IN_VAIN) else Verdict.NODE_LOST
        return self._taken_back.get(id(child), by_batch)

    def clear(self) -> None:
        """Take back what can never begin, or waits while nothing of its queue moves."""
        now = self._clock()
        arrays = list(self._following.arrays.values())
        moved: dict[str, float] = {}
        for array in arrays:
            moved[array.queue] = max(moved.get(array.queue, 0.0), array.moved_at)
        for array in arrays:
            waiting = [child for child in array.children if child.state == WAITING]
            if not waiting or array.count(RUNNING) or array.running:
                continue
            said = next((child.reason for child in waiting if child.reason), "")
            impossible = said.startswith(_IMPOSSIBLE)
            if impossible or now - moved[array.queue] > self._patience.longest_wait:
                self._take_back(array, said, impossible=impossible)

    def _take_back(self, array: Array, said: str, *, impossible: bool) -> None:
        name = self._fleet.of_queue(self._stack.name, array.queue)
        if impossible:
            what, mend = f"No machine of type {name} can run the jobs.", _LOWER
        else:
            what = f"No machine of type {name} was to be had for {self._patience.longest_wait / 60:.0f} minutes."
            mend = _ASK
        trouble = f"{what} AWS says: {(said or 'nothing').rstrip('.')}. {mend}"
        self.shortages.note(name, trouble, math.inf if impossible else self._patience.blocked)
        try:
            self._calls.terminate(array.id, f"Taken back by Referee: {what}")
        except HostError:
            self._following.look_now()
            return
        elsewhere = name not in self._fleet.offered(self.shortages.names)
        lost_as = Verdict.UNROUTABLE if impossible and not elsewhere else Verdict.INTERRUPTED
        for child in array.children:
            if child.state == WAITING:
                child.state, child.reason = ENDED, trouble
                self._taken_back[id(child)] = lost_as
