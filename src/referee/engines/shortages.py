"""Machine types that cannot be had for now, with the reason; and which other type can do their work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from referee.challenge import MachineType


@dataclass(slots=True)
class Shortages:
    """What an engine learned of its machine types by trying.

    Args:
        clock: seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _noted: dict[str, tuple[float, str]] = field(default_factory=dict)

    def note(self, machine_type: str, trouble: str, seconds: float = math.inf) -> None:
        """The type cannot be had for so long; `trouble` says to the operator why, and how it is mended."""
        self._noted[machine_type] = (self.clock() + seconds, trouble)

    @property
    def names(self) -> frozenset[str]:
        """The machine types that cannot be had now."""
        return frozenset(name for name, (until, _) in self._noted.items() if until > self.clock())

    def troubles(self) -> list[str]:
        """Why, for the operator."""
        return [trouble for until, trouble in self._noted.values() if until > self.clock()]


def offered(machines: Mapping[str, MachineType], missing: Collection[str]) -> dict[str, MachineType]:
    """The machine types to choose from: one that cannot be had is left out where another can stand in for it."""
    at_hand = [machine for name, machine in machines.items() if name not in missing]
    return {
        name: machine
        for name, machine in machines.items()
        if name not in missing or not any(_stands_in(other, machine) for other in at_hand)
    }


def _stands_in(other: MachineType, machine: MachineType) -> bool:
    return (
        other.cpus >= machine.cpus
        and other.memory >= machine.memory
        and other.gpus >= machine.gpus
        and (other.gpu_memory or 0) >= (machine.gpu_memory or 0)
    )
