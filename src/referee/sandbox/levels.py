"""Which runtime keeps the promises of which isolation level."""

from __future__ import annotations

from referee.sandbox.policy import Level
from referee.sandbox.runc import Runc
from referee.sandbox.runsc import Runsc
from referee.sandbox.runtime import Runtime

_RUNTIMES: dict[Level, Runtime] = {"runc": Runc(), "gvisor": Runsc()}


def runtime_of(level: Level) -> Runtime:
    """The runtime of `level`, whether it is installed or not."""
    return _RUNTIMES[level]
