"""The queue that AWS hands the ends of jobs to: emptied seldom, and what was taken is deleted in tens.

SQS gives a message out again until it is deleted, after the time for which it is hidden (`HIDDEN_SECONDS`, the
template's `VisibilityTimeout`). To be told something twice costs nothing here, so that what few messages came are
deleted with those of later turns: one call for ten.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from referee.engines.aws_batch_calls import MESSAGES, BatchCalls
from referee.errors import HostError

HIDDEN_SECONDS = 1800
_OLDEST_SECONDS = HIDDEN_SECONDS / 2


class Events:
    """A queue of events.

    Args:
        calls: to AWS.
        url: of the queue.
        clock: seconds.
    """

    def __init__(self, calls: BatchCalls, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls, self._url, self._clock = calls, url, clock
        self._taken: list[tuple[float, str]] = []  # when, and the receipt by which it is deleted

    def take(self) -> tuple[list[dict[str, Any]], bool]:
        """At most ten events, and whether there may be more.

        Raises:
            HostError: if AWS refuses or does not answer.
        """
        received = self._calls.receive(self._url)
        now = self._clock()
        self._taken += [(now, each["ReceiptHandle"]) for each in received]
        while len(self._taken) >= MESSAGES or (self._taken and now - self._taken[0][0] > _OLDEST_SECONDS):
            self._delete()
        events = [event for each in received if isinstance(event := _event(each["Body"]), dict)]
        return events, len(received) == MESSAGES

    def close(self) -> None:
        """Delete what was taken; what cannot be deleted is told to the next controller once more."""
        try:
            while self._taken:
                self._delete()
        except HostError:
            self._taken.clear()

    def _delete(self) -> None:
        some, self._taken = self._taken[:MESSAGES], self._taken[MESSAGES:]
        self._calls.delete(self._url, [receipt for _, receipt in some])


def _event(body: str) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None
