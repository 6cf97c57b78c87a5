"""How long an engine that refuses, or does not answer, is asked again."""

from __future__ import annotations

from referee.engines.contract import SilentError
from referee.errors import HostError

_MOST_REFUSALS = 3
# What does not answer is asked ever more rarely, for about a quarter of an hour and its own patience.
_MOST_SILENCES, _LONGEST_PAUSE = 35, 15


class Patience:
    """Counts what an engine refused or left unanswered since it last took or told something.

    Attributes:
        over: why it is asked no more; empty as long as it is.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._refusals = self._silences = self._pause = 0
        self.over = ""

    def next_pass(self) -> None:
        """A pass of the controller begins."""
        self._pause = max(self._pause - 1, 0)

    @property
    def waits(self) -> bool:
        """Whether nothing is asked in this pass."""
        return self._pause > 0

    def failed(self, error: HostError) -> None:
        """The engine refused, or did not answer."""
        if isinstance(error, SilentError):
            self._silences += 1
            self._pause = min(2 ** (self._silences - 1), _LONGEST_PAUSE)
        else:
            self._refusals += 1
        if self._refusals >= _MOST_REFUSALS or self._silences >= _MOST_SILENCES:
            self.over = f"{self.trouble} {error}"

    def answered(self) -> None:
        """It told where jobs are."""
        self._silences = 0

    def took(self) -> None:
        """It took a submission."""
        self._refusals = self._silences = 0

    @property
    def trouble(self) -> str:
        """What there was, for the operator; empty if nothing."""
        counts = {"refused": self._refusals, "did not answer": self._silences}
        said = " and ".join(f"{what} {times} times" for what, times in counts.items() if times)
        return f"The engine {self._engine} {said}." if said else ""
