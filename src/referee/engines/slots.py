"""Who has which part of one machine: processors, memory and GPUs, each promised once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from referee.engines.hardware import Hardware

_FULL = 1 << 30


@dataclass(frozen=True, slots=True)
class Needs:
    """What one attempt takes."""

    cpus: float
    memory_bytes: int
    gpus: int = 0
    gpu_sharing: int = 1


@dataclass(frozen=True, slots=True)
class Share:
    """What one attempt was given.

    Attributes:
        cpus: processors that it has to itself; empty for a part of all.
        gpus: UUIDs of the GPUs that it has: to itself, or as one of `gpu_sharing`.
        memory_bytes: memory set aside.
        cpu_count: how many processors' time it may use.
    """

    cpus: tuple[int, ...]
    gpus: tuple[str, ...]
    memory_bytes: int
    cpu_count: float
    gpu_sharing: int = 1


class Slots:
    """The parts of one machine that are given to attempts.

    Args:
        hardware: all there is.
        count: at most so many attempts side by side, whatever the processors say; memory and GPUs still bound them.

    Memory that others use is not given out, except that an empty machine always takes one attempt that it could hold.
    """

    def __init__(self, hardware: Hardware, count: int | None = None) -> None:
        self._hardware = hardware
        self._count = count
        self._taken: dict[str, Share] = {}
        self._others_bytes = hardware.others_bytes

    @property
    def holders(self) -> list[str]:
        """The attempts that have a share."""
        return list(self._taken)

    def fits(self, needs: Needs) -> bool:
        """Whether the attempt could run if the machine were empty."""
        return Slots(replace(self._hardware, others_bytes=0), self._count).room(needs) > 0

    def room(self, needs: Needs) -> int:
        """How many more attempts with these needs fit now."""
        bounds = [self._memory_room(needs.memory_bytes)]
        if self._count is None:
            bounds.append(int(self._free_cpus() / needs.cpus + 1e-9))
        else:
            bounds.append(self._count - len(self._taken) if needs.cpus <= len(self._hardware.cpus) else 0)
        if needs.gpus:
            bounds.append(self._gpu_room(needs))
        return max(0, min(bounds))

    def take(self, attempt: str, needs: Needs) -> Share | None:
        """Give the attempt its share, or `None` if it does not fit now."""
        if self.room(needs) < 1:
            return None
        share = Share(
            self._processors(needs.cpus), tuple(self._free_gpus(needs, self._held())[: needs.gpus]),
            needs.memory_bytes, needs.cpus, needs.gpu_sharing,
        )  # fmt: skip
        self._taken[attempt] = share
        return share

    def reserve(self, attempt: str, share: Share) -> None:
        """Record what an attempt has that was started before us, and so was in use when the machine was looked at."""
        self._taken[attempt] = share
        self._others_bytes = max(0, self._others_bytes - share.memory_bytes)

    def release(self, attempt: str) -> None:
        """Take back what the attempt had."""
        self._taken.pop(attempt, None)

    def _memory_room(self, needed_bytes: int) -> int:
        taken = sum(share.memory_bytes for share in self._taken.values())
        room = (self._hardware.memory_bytes - self._others_bytes - taken) // max(1, needed_bytes)
        if room < 1 and not self._taken and needed_bytes <= self._hardware.memory_bytes:
            return 1  # what others use may be given back at any time; waiting for it could take for ever
        return room

    def _free_cpus(self) -> float:
        return len(self._hardware.cpus) - sum(share.cpu_count for share in self._taken.values())

    def _held(self) -> Counter[str]:
        """How many have each GPU; one that somebody has alone counts as full."""
        held: Counter[str] = Counter()
        for share in self._taken.values():
            for uuid in share.gpus:
                held[uuid] += 1 if share.gpu_sharing > 1 else _FULL
        return held

    def _free_gpus(self, needs: Needs, held: Counter[str]) -> list[str]:
        """Those with a place left, the emptiest first."""
        free = [gpu.uuid for gpu in self._hardware.gpus if held[gpu.uuid] < needs.gpu_sharing]
        return sorted(free, key=lambda uuid: held[uuid])

    def _gpu_room(self, needs: Needs) -> int:
        held, room = self._held(), 0
        while len(free := self._free_gpus(needs, held)) >= needs.gpus:
            held.update(free[: needs.gpus])
            room += 1
        return room

    def _processors(self, count: float) -> tuple[int, ...]:
        """Processors of its own for whoever asked for whole ones, where nobody shares; else none in particular."""
        if count != int(count) or any(not share.cpus for share in self._taken.values()):
            return ()
        taken = {cpu for share in self._taken.values() for cpu in share.cpus}
        free = [cpu for cpu in self._hardware.cpus if cpu not in taken]
        return tuple(free[: int(count)]) if len(free) >= count else ()
