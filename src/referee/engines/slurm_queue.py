"""The jobs of ours that Slurm knows, as it showed them last: asked in one call, seldom, and more seldom in quiet times.

Slurm's silence ends nothing: what was known last holds until it answers, or until it has been silent for longer than
an operator should not know of.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from referee.engines.slurm_commands import SlurmCommands, SlurmSilentError
from referee.engines.slurm_states import LOST, Child, Ended
from referee.engines.waves import Wave, recorded_waves
from referee.errors import HostError
from referee.objects import ObjectStore
from referee.units import format_duration

Answer = TypeVar("Answer")

_SLOWEST = 6.0  # times the poll interval


@dataclass(slots=True)
class Entry:
    """One job of an attempt; it has several only if it was submitted twice.

    Attributes:
        attempt: which.
        machine_type: that it was submitted for.
        child: as Slurm showed it last.
        given_up: why we had Slurm end it, before it could begin.
        told: what its end means, once that was read.
    """

    attempt: str
    machine_type: str
    child: Child
    given_up: Ended | None = None
    told: Ended | None = None

    @property
    def is_open(self) -> bool:
        """Something may still come of it."""
        return self.given_up is None and self.told is None and not self.child.has_ended


class SlurmQueue:
    """Follows the jobs of one engine's waves.

    Args:
        commands: how Slurm is asked.
        objects: where waves are recorded.
        engine: whose waves.
        poll: between two questions, while something changes.
        silence: after this, an unanswered question is an error.
        after_each: called after each answer.
    """

    def __init__(
        self,
        commands: SlurmCommands,
        objects: ObjectStore,
        engine: str,
        poll: timedelta,
        silence: timedelta,
        after_each: Callable[[], None],
    ) -> None:
        self._commands, self._objects, self._engine = commands, objects, engine
        self._poll_seconds, self._silence_seconds = poll.total_seconds(), silence.total_seconds()
        self._after_each = after_each
        self._entries: dict[str, Entry] = {}  # by handle
        self._waves: dict[str, Wave] = {}
        self._interval = self._poll_seconds
        self._next_poll = 0.0
        self._silent_since: float | None = None
        self._changed = False

    @property
    def entries(self) -> Sequence[Entry]:
        """Every job that was ever seen."""
        return list(self._entries.values())

    @property
    def silent_seconds(self) -> float | None:
        """For how long Slurm has not answered; None while it does."""
        return None if self._silent_since is None else time.monotonic() - self._silent_since

    def by_attempt(self) -> dict[str, list[Entry]]:
        """The jobs of each attempt."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self._entries.values():
            found[entry.attempt].append(entry)
        return found

    def know(self, wave: Wave) -> None:
        """A wave is about to be submitted."""
        self._waves[wave.wave] = wave

    def add(self, wave: Wave, number: str) -> list[Entry]:
        """The wave was submitted as this array."""
        children = [Child(wave.wave, i, f"{number}_{i}", "PENDING", None, "None") for i in range(len(wave.attempts))]
        added = [Entry(wave.attempts[child.index], wave.machine_type, child) for child in children]
        self._entries |= {entry.child.handle: entry for entry in added}
        return added

    def refresh(self) -> None:
        """Ask Slurm, if it is time to.

        Raises:
            HostError: if it has been silent for too long.
        """
        if time.monotonic() < self._next_poll:
            return
        try:
            self.poll()
        except SlurmSilentError as error:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            self._interval = min(self._interval * 2, self._poll_seconds * _SLOWEST)
            self._next_poll = now + self._interval
            silence = now - self._silent_since
            if silence > self._silence_seconds:
                raise HostError(
                    f"Slurm has not answered for {format_duration(silence)}. {error.message}", hint=error.hint
                ) from error

    def poll(self) -> None:
        """Ask for all jobs at once, now.

        Raises:
            SlurmSilentError: if Slurm does not answer.
        """
        children = {child.handle: child for child in self._commands.children()}
        self._silent_since = None
        if {child.wave for child in children.values()} - set(self._waves):
            for wave in recorded_waves(self._objects, self._engine, list(self._waves)):
                self.know(wave)
        changed = False
        for handle, child in children.items():
            changed |= self._see(handle, child)
        for handle, entry in self._entries.items():
            if handle not in children and entry.is_open:
                entry.told, changed = LOST, True
        self._changed |= changed
        self._interval = self._poll_seconds if changed else min(self._interval * 1.5, self._poll_seconds * _SLOWEST)
        self._next_poll = time.monotonic() + self._interval
        self._after_each()

    def hurry(self) -> None:
        """Something was asked of Slurm whose effect is to be seen soon."""
        self._interval = self._poll_seconds
        self._next_poll = min(self._next_poll, time.monotonic() + min(1.0, self._interval))

    def wait(self, seconds: float) -> None:
        """Until Slurm says something new, at most so long."""
        deadline = time.monotonic() + seconds
        while not self._changed and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, max(0.0, self._next_poll - time.monotonic())))
            self.refresh()
        self._changed = False

    def asked(self, question: Callable[[], Answer]) -> Answer:
        """What Slurm answers, asked again while it is silent.

        Raises:
            SlurmSilentError: if it has been silent for too long.
        """
        began, pause = time.monotonic(), self._poll_seconds
        while True:
            try:
                return question()
            except SlurmSilentError:
                if time.monotonic() - began > self._silence_seconds:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, self._poll_seconds * _SLOWEST)

    def _see(self, handle: str, child: Child) -> bool:
        """Whether it is news."""
        wave = self._waves.get(child.wave)
        if wave is None or child.index >= len(wave.attempts):
            return False  # another campaign's
        entry = self._entries.get(handle)
        if entry is None:
            self._entries[handle] = Entry(wave.attempts[child.index], wave.machine_type, child)
            return False
        if entry.told is LOST:
            entry.told = None  # shown again: it was not lost
        elif entry.child == child:
            return False
        entry.child = child
        return True
