"""What AWS Batch said last of each job: told by events, and looked up slowly, because events may be lost.

An array's parent carries a summary of its children's states, so that one DescribeJobs call tells of a hundred arrays of
thousands whether anything happened at all; only then are children asked for.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from referee.engines.aws_batch_calls import BatchCalls, RefusedError, UnansweredError
from referee.engines.aws_batch_events import Events
from referee.errors import HostError

WAITING, RUNNING, ENDED = "waiting", "running", "ended"
_STATES = {
    "SUBMITTED": WAITING,
    "PENDING": WAITING,
    "RUNNABLE": WAITING,
    "STARTING": RUNNING,
    "RUNNING": RUNNING,
    "SUCCEEDED": ENDED,
    "FAILED": ENDED,
}
_YOUNG_SECONDS = 300.0  # a job that was just submitted may not be described yet
_JUST_SECONDS = 10.0
_RAREST_LOOK = 4  # times `look_seconds`, while events tell all that there is to tell


@dataclass(slots=True)
class Child:
    """One execution, as Batch tells of it. `reason` is Batch's own words."""

    state: str = WAITING
    reason: str = ""
    forgotten: bool = False


@dataclass(slots=True)
class Array:
    """A submission: an array of children, or one job alone (`size` 1).

    Attributes:
        running: how many children run, as its summary said last.
        moved_at: when a child of it was last seen to go on, or it was submitted; of this process's clock.
    """

    id: str
    queue: str
    size: int
    moved_at: float
    followed_at: float
    children: list[Child] = field(default_factory=list)
    running: int = 0

    @property
    def is_live(self) -> bool:
        """Whether a child has not ended."""
        return any(child.state != ENDED for child in self.children)

    def count(self, state: str) -> int:
        """How many children are in a state."""
        return sum(child.state == state for child in self.children)

    def child_id(self, index: int) -> str:
        """Batch's name of a child."""
        return self.id if self.size == 1 else f"{self.id}:{index}"


class Following:
    """The jobs that are followed.

    Args:
        calls: to AWS.
        events_url: the queue that Batch's state changes come to; without one everything is looked up.
        look_seconds: how often it is looked up what events should have told; up to four times as seldom while work
            goes on and they have told it all.
        clock: seconds.
    """

    def __init__(
        self,
        calls: BatchCalls,
        events_url: str | None,
        look_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.arrays: dict[str, Array] = {}
        self.unanswered_since: float | None = None
        self.unanswered_because = ""
        self._calls, self._look_seconds, self._clock = calls, look_seconds, clock
        self._events = None if events_url is None else Events(calls, events_url, clock)
        self._look_at, self._pause, self._listened_at = 0.0, look_seconds, -math.inf

    def follow(self, job: str, queue: str, size: int) -> Array:
        """Follow a submission from now on."""
        if job not in self.arrays:
            now = self._clock()
            self.arrays[job] = Array(job, queue, size, now, now, [Child() for _ in range(size)])
            self._pause = self._look_seconds
            self._look_at = min(self._look_at, now + self._pause)
        return self.arrays[job]

    def look_at_running(self) -> None:
        """Look up exactly which children run now."""
        for array in [array for array in self.arrays.values() if array.is_live and array.size > 1]:
            self._answered(partial(self._running_of, array))

    def look_now(self) -> None:
        """Look everything up at the next turn."""
        self._look_at, self._pause = 0.0, self._look_seconds

    def refresh(self) -> bool:
        """Look up what is due; returns whether anything changed."""
        now = self._clock()
        if now < self._look_at:
            return False
        # What has come already need not be looked up.
        heard = now - self._listened_at > _JUST_SECONDS and self.listen()
        live = [array for array in self.arrays.values() if array.is_live]
        ended = sum(array.count(ENDED) for array in live)
        changed = self._answered(lambda: self._look_up(live))
        told_all = self._events is not None and ended == sum(array.count(ENDED) for array in live)
        if told_all and self.unanswered_since is None and any(array.running for array in live):
            self._pause = min(2 * self._pause, _RAREST_LOOK * self._look_seconds)
        else:
            self._pause = self._look_seconds
        self._look_at = now + self._pause
        return heard or changed

    def listen(self) -> bool:
        """Take the events that have come; returns whether anything changed. What is not told is looked up."""
        changed, self._listened_at = False, self._clock()
        with contextlib.suppress(HostError):  # Batch may answer all the same, and whether it does is what counts
            more = self._events is not None
            while self._events is not None and more:
                events, more = self._events.take()
                changed = self._apply(events) or changed
        return changed

    def close(self) -> None:
        """Let go of the events that were taken."""
        if self._events is not None:
            self._events.close()

    # Inside

    def _running_of(self, array: Array) -> bool:
        return self._apply_summaries(array, self._calls.children(array.id, "RUNNING"))

    def _answered(self, ask: Callable[[], bool]) -> bool:
        try:
            changed = ask()
        except (UnansweredError, RefusedError) as error:
            # What is known stays: a controller that cannot ask must not take its workers for dead.
            self.unanswered_because = str(error)
            if self.unanswered_since is None:
                self.unanswered_since = self._clock()
            return False
        self.unanswered_since = None
        return changed

    def _look_up(self, live: list[Array]) -> bool:
        told = {job["jobId"]: job for job in self._calls.describe([array.id for array in live])}
        changed = False
        for array in live:
            job = told.get(array.id)
            if job is None:
                changed = self._forget(array) or changed
            elif array.size == 1:
                changed = self._set(array, 0, job["status"], job.get("statusReason", "")) or changed
            else:
                summary = job["arrayProperties"].get("statusSummary", {})
                changed = self._look_at_children(array, summary) or changed
        return changed

    def _look_at_children(self, array: Array, summary: Mapping[str, int]) -> bool:
        wanted = Counter(dict.fromkeys((WAITING, RUNNING, ENDED), 0))
        for status, count in summary.items():
            wanted[_STATES[status]] += count
        statuses: list[str] = []
        if wanted[ENDED] != array.count(ENDED):
            statuses += ["SUCCEEDED", "FAILED"]
        array.running = wanted[RUNNING]
        if wanted[RUNNING] and not array.count(RUNNING):
            statuses += ["RUNNING", "STARTING"]  # which ones, roughly: exactly it is asked for where it counts
        if summary.get("RUNNABLE", 0) and not wanted[RUNNING]:
            statuses.append("RUNNABLE")  # nothing of it runs: Batch may say why
        changed = False
        for status in statuses:
            if summary.get(status, 0):
                changed = self._apply_summaries(array, self._calls.children(array.id, status)) or changed
        return changed

    def _apply_summaries(self, array: Array, jobs: Iterable[Mapping[str, Any]]) -> bool:
        changed = False
        for job in jobs:
            index = int(job["arrayProperties"]["index"])
            changed = self._set(array, index, job["status"], job.get("statusReason", "")) or changed
        return changed

    def _apply(self, events: Iterable[Mapping[str, Any]]) -> bool:
        changed = False
        for event in events:
            detail = event.get("detail")
            if event.get("source") != "aws.batch" or not isinstance(detail, dict):
                continue
            parent, _, index = str(detail.get("jobId", "")).partition(":")
            array = self.arrays.get(parent)
            if array is None or detail.get("status") not in _STATES or (array.size > 1 and not index.isdigit()):
                continue  # another campaign's, or of an array's parent
            place = int(index) if index else 0
            if place < array.size:
                changed = self._set(array, place, detail["status"], str(detail.get("statusReason", ""))) or changed
        return changed

    def _set(self, array: Array, index: int, status: str, reason: str) -> bool:
        child, state = array.children[index], _STATES[status]
        order = (WAITING, RUNNING, ENDED)
        if order.index(state) < order.index(child.state):
            return False  # events come in any order, and a job never goes back: nobody retries but the controller
        moved = state != child.state
        child.state, child.reason = state, reason or child.reason
        if moved:
            array.moved_at = self._clock()
        return moved

    def _forget(self, array: Array) -> bool:
        if self._clock() - array.followed_at < _YOUNG_SECONDS:
            return False
        for child in array.children:
            if child.state != ENDED:
                child.state, child.forgotten = ENDED, True
                child.reason = "AWS Batch does not know this job any more."
        return True
