"""Workers as processes: watched, and ended, by descriptors that mean one process for ever.

A worker's process id alone is never trusted: it is checked against the time at which its process began.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from referee.boot import boot_id
from referee.worker.lock import Holder, is_held, read_holder, start_ticks

_DEATH_SECONDS = 15.0


class Watch:
    """Descriptors that become readable when workers end that we did not start."""

    def __init__(self, attempts: Sequence[str], node_folder: Path) -> None:
        self._node_folder = node_folder
        self.descriptors: list[int] = []
        self.blind: list[str] = []
        for attempt in attempts:
            holder = read_holder(node_folder, attempt)
            descriptor = _open_process(holder) if holder is not None else None
            if descriptor is None:
                self.blind.append(attempt)
            else:
                self.descriptors.append(descriptor)

    def blind_changed(self) -> bool:
        """Whether a worker ended whose process cannot be watched."""
        return any(not is_held(self._node_folder, attempt) for attempt in self.blind)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def end_workers(holders: Sequence[Holder], grace_seconds: float) -> None:
    """SIGTERM to the workers, and SIGKILL to those that are still there after `grace_seconds`."""
    processes = [process for holder in holders if (process := _open_process(holder)) is not None]
    try:
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, _DEATH_SECONDS)):
            left = [process for process in processes if not _has_ended(process, 0.0)]
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, number)
            deadline = time.monotonic() + seconds
            for process in left:
                _has_ended(process, max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            os.close(process)


def _open_process(holder: Holder) -> int | None:
    """A descriptor of the worker's outer process; `None` if it is gone. A process that took over its id is not it."""
    if holder.boot_id != boot_id():
        return None
    try:
        process = os.pidfd_open(holder.pid)
    except OSError:
        return None
    if start_ticks(holder.pid) != holder.started_ticks:
        os.close(process)
        return None
    return process


def _has_ended(process: int, seconds: float) -> bool:
    return bool(select.select([process], [], [], seconds)[0])
