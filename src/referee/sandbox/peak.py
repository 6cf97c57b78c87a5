"""The most memory that a control group held, where its kernel does not keep it (version 2 before Linux 5.19)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_POLL_SECONDS = 0.05


class SampledPeak:
    """Asks for the memory in use every 0.05 s while the context is open. A shorter peak can be missed.

    Args:
        current: bytes in use now; `None` if that cannot be told.
    """

    def __init__(self, current: Callable[[], int | None]) -> None:
        self._current = current
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._current() or 0)
