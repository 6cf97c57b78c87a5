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


def granted_bytes(level: Level, memory_bytes: int) -> int:
    """The memory that a sandbox takes of its machine: the submission's limit, and what the runtime itself needs."""
    return memory_bytes + runtime_of(level).overhead.memory_bytes


def gives_gpus(level: Level) -> bool:
    """Whether sandboxes of this level can have GPUs: gVisor's need drivers that it must know, and get none.

    Machine types are to be offered without GPUs then. A submission that wants one is unroutable, which is true, instead
    of a fault of the host, which would be tried three times.
    """
    return level == "runc"
