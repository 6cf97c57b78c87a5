"""The pipe that a container writes its output and errors to, and the reasons to end a run that show there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from contextlib import ExitStack
from typing import BinaryIO, Literal

from referee.sandbox.policy import SandboxPolicy

Ending = Literal["itself", "wall_time", "log_limit", "kill"]

TAIL_BYTES = 8192
_PIPE_BYTES = 1 << 18
_LONGEST_WAIT_SECONDS = 3600.0  # poll(2) counts milliseconds in 32 bits


class LogPipe:
    """The pipe of one run: the first bytes are kept, all are counted."""

    def __init__(self, policy: SandboxPolicy) -> None:
        self._keep = policy.log_bytes
        self._flood = policy.flood_bytes
        self.seen_bytes = 0
        self.tail = b""
        self._reader = -1
        self._wake = -1
        self._log: BinaryIO | None = None

    def open(self, stack: ExitStack, log: BinaryIO, wake: int) -> int:
        """Make the pipe; returns the end to write to, which the caller closes."""
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self._reader)
        os.set_blocking(self._reader, False)
        with contextlib.suppress(PermissionError):  # a larger pipe is only faster
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._log, self._wake = log, wake
        return writer

    def pump(self, process: int, deadline: float) -> Ending:
        """Read until `process` (a pid file descriptor) ends, or until there is a reason to end it."""
        poller = select.poll()
        for descriptor in (self._reader, process, self._wake):
            poller.register(descriptor, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "wall_time"
            ready = {descriptor for descriptor, _ in poller.poll(min(left, _LONGEST_WAIT_SECONDS) * 1000)}
            if self._wake in ready:
                return "kill"
            if process in ready:
                return "itself"
            if self._reader in ready and not self._read():
                poller.unregister(self._reader)
            if self.seen_bytes > self._flood:
                return "log_limit"

    def drain(self) -> None:
        """Read what is left in the pipe after its writers are gone."""
        while self._read():
            if self.seen_bytes > self._flood + _PIPE_BYTES:
                return

    def _read(self) -> bool:
        try:
            part = os.read(self._reader, _PIPE_BYTES)
        except BlockingIOError:
            return False
        kept = max(0, self._keep - self.seen_bytes)
        if kept and part and self._log is not None:
            self._log.write(part[:kept])
        self.seen_bytes += len(part)
        self.tail = (self.tail + part)[-TAIL_BYTES:]
        return bool(part)
