"""Being told to stop (SIGTERM): at any moment of an attempt, what happens next is well defined."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

REASON = "The worker was told to stop."


class Stopped(BaseException):
    """The attempt was ended before its container ran. Like `KeyboardInterrupt` it passes every `except Exception`."""


class Killable(Protocol):
    """A running sandbox."""

    def kill(self, reason: str) -> None:
        """End it now."""
        ...


class Stopping:
    """Turns SIGTERM into an orderly end of the attempt.

    While it prepares, `Stopped` is raised wherever it stands (everything there survives SIGKILL as well). While the
    container runs, the sandbox is killed. While the result is published, nothing happens: it ends by itself.
    """

    def __init__(self) -> None:
        self.asked = False
        self._may_raise = False
        self._box: Killable | None = None

    def listen(self) -> None:
        """Handle SIGTERM from now on, also one that arrived while it was blocked."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def stop(self) -> None:
        """Ask for the end, as SIGTERM does."""
        self.asked = True
        if self._box is not None:
            self._box.kill(REASON)
        elif self._may_raise:
            self._may_raise = False
            raise Stopped

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Within this context `Stopped` may be raised at any instruction."""
        try:
            self._may_raise = True
            if self.asked:
                raise Stopped
            yield
        finally:
            self._may_raise = False

    @contextlib.contextmanager
    def running(self, box: Killable) -> Iterator[None]:
        """Within this context the sandbox is killed."""
        self._box = box
        try:
            if self.asked:
                box.kill(REASON)
            yield
        finally:
            self._box = None

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()
