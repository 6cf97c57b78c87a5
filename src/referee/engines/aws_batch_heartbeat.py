"""The controller's sign of life, and the alarm that rings without it."""

from __future__ import annotations

import contextlib

from referee.engines.aws_batch_calls import BatchCalls
from referee.errors import HostError

_SECONDS = 300.0  # the alarm rings after a quarter of an hour without


class Heartbeat:
    """Sent while a campaign is led.

    Args:
        calls: to AWS.
        stack: whose.
        alarm: that rings; None: nothing is sent.
    """

    def __init__(self, calls: BatchCalls, stack: str, alarm: str | None) -> None:
        self._calls, self._stack, self._alarm = calls, stack, alarm
        self._next: float | None = None
        self._watched = False

    def beat(self, now: float) -> None:
        """Send it if it is due; with the first one that was taken the alarm is switched on."""
        if self._alarm is None or (self._next is not None and now < self._next):
            return
        with contextlib.suppress(HostError):  # what is not sent rings the alarm, which is what it is for
            self._calls.heartbeat(self._stack)
            if not self._watched:
                self._calls.watch_heartbeat(self._alarm, on=True)
                self._watched = True
        self._next = now + _SECONDS

    def end(self) -> None:
        """Switch the alarm off: a controller that ends in order need not be missed."""
        if self._alarm is not None and self._watched:
            with contextlib.suppress(HostError):
                self._calls.watch_heartbeat(self._alarm, on=False)
