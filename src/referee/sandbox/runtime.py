"""The seam between a sandbox and the program that runs its bundle: one implementation for each isolation level."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from referee.sandbox.policy import SandboxPolicy

PID_FILE = "pid"
RUNTIME_LOG = "runtime.log"


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a runtime itself takes of the sandbox's cgroup, granted above the submission's limits."""

    memory_bytes: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How the submission's first process ended: neither is set if the runtime died without saying it."""

    exit_status: int | None = None
    signal: int | None = None


class Runtime(Protocol):
    """A program that starts an OCI bundle and returns; the container then belongs to the nearest reaper.

    Every process that it leaves running lies in the leaf cgroup that the bundle names.
    """

    @property
    def overhead(self) -> Overhead:
        """What it needs for itself in the sandbox's cgroup."""

    def find(self) -> str:
        """Where the program is.

        Raises:
            UnsafeHostError: if it is not installed.
        """

    def adapt(self, configuration: dict[str, Any], policy: SandboxPolicy) -> dict[str, Any]:
        """The bundle's configuration as this runtime needs it said."""

    def start_command(self, bundle: Path, name: str) -> list[str]:
        """The command line that starts the bundle. It writes `PID_FILE` and `RUNTIME_LOG` into the bundle's folder.

        Args:
            bundle: a folder that only the host's root can enter.
            name: the container's, unique on this machine.
        """

    def read_error(self, bundle: Path) -> str:
        """Why the container did not start, or an empty string."""

    def read_end(self, bundle: Path, ended: os.waitid_result) -> End:
        """How the submission's first process ended, from the end of the process in `PID_FILE`."""


def process_end(ended: os.waitid_result) -> End:
    """The end of a process as waitid(2) tells it."""
    if ended.si_code == os.CLD_EXITED:
        return End(exit_status=ended.si_status)
    return End(signal=ended.si_status)
