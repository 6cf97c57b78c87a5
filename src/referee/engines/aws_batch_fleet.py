"""The machine types of the engine `aws-batch`: their queues, what jobs may ask of them, how many there can be. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from referee.challenge import AwsChoice, Challenge, Limits, MachineType, markets
from referee.engines.shortages import offered
from referee.errors import ConfigurationError
from referee.sandbox.levels import gives_gpus, granted_bytes
from referee.sandbox.policy import Level

# An instance registers less than its nominal memory (the kernel's and the agent's share is gone), and a job that asks
# for more waits for ever. `referee cloud smoke` prints what an instance registered.
_REGISTERED_SHARE = 0.93
_REGISTERED_LESS_BYTES = 300 << 20
_WORKER_BYTES = 512 << 20  # of a job's memory, for the worker beside its submission
_MIB = 1 << 20
UNBOUNDED_MACHINES = 20  # where neither a count nor a quota says how many there can be
_MOST_OPEN = 10_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """Machine types by name; spot capacity is a type of its own, as it has a price and a way to end of its own.

    Attributes:
        machines: as they are sold.
        ceilings: how many there can be at once.
        slots: at most so many attempts of each type open at once; by default twice what runs at once.
        alone: each submission gets a machine to itself.
        level: the isolation level, whose runtime takes memory beside each submission.
    """

    machines: Mapping[str, MachineType]
    ceilings: Mapping[str, int] = field(default_factory=dict)
    slots: int | None = None
    alone: bool = False
    level: Level = "runc"

    @staticmethod
    def queue(stack: str, machine_type: str) -> str:
        """The name of the job queue of a machine type."""
        return f"{stack}-{slug(machine_type)}"

    def of_queue(self, stack: str, queue: str) -> str:
        """The machine type of a queue."""
        return next(name for name in self.machines if self.queue(stack, name) == queue.rpartition("/")[2])

    def offered(self, blocked: Collection[str]) -> dict[str, MachineType]:
        """What submissions can have of each type; a blocked type is left out where another can stand in for it."""
        kept = offered(self.machines, blocked)
        return {name: machine.model_copy(update=self._of_a_submission(machine)) for name, machine in kept.items()}

    def _of_a_submission(self, machine: MachineType) -> dict[str, int]:
        most = max(registered_bytes(machine) - self._job_bytes(0), 1)
        return {"memory": most} if gives_gpus(self.level) else {"memory": most, "gpus": 0}

    def _job_bytes(self, memory_bytes: int) -> int:
        return granted_bytes(self.level, memory_bytes) + _WORKER_BYTES

    def needs(self, machine_type: str, limits: Limits, gpus: int) -> dict[str, int]:
        """What an attempt's job asks for: vCPUs, MiB, GPUs.

        Raises:
            ConfigurationError: if the instance would never register as much.
        """
        machine = self.machines[machine_type]
        memory = math.ceil(self._job_bytes(limits.memory) / _MIB)
        most = registered_bytes(machine) // _MIB
        if memory > most or math.ceil(limits.cpus) > machine.cpus or gpus > machine.gpus:
            raise ConfigurationError(
                f"An attempt needs {memory} MiB, {limits.cpus:g} CPUs and {gpus} GPUs; "
                f"{machine_type} gives {most} MiB, {machine.cpus:g} CPUs and {machine.gpus} GPUs to jobs.",
                hint="Lower the challenge's limits, or use a larger machine type.",
            )
        alone = self.alone
        wanted = {"VCPU": int(machine.cpus) if alone else math.ceil(limits.cpus), "MEMORY": most if alone else memory}
        return wanted | ({"GPU": gpus} if gpus else {})

    def room(self, machine_type: str, limits: Limits, open_now: int) -> int:
        """How many more attempts to submit, of which so many are open now; none until it is worth a submission."""
        most = self.slots or min(_MOST_OPEN, 2 * self._at_once(machine_type, limits))
        free = max(most - open_now, 0)
        return free if open_now == 0 or 8 * free >= 3 * most else 0

    def _at_once(self, machine_type: str, limits: Limits) -> int:
        machine = self.machines[machine_type]
        each = 1
        if not self.alone:
            bounds = [machine.cpus / limits.cpus, registered_bytes(machine) / self._job_bytes(limits.memory)]
            bounds += [machine.gpus / limits.gpus] if machine.gpus and limits.gpus else []
            each = max(1, int(min(bounds)))
        return each * self.ceilings.get(machine_type, UNBOUNDED_MACHINES)


def registered_bytes(machine: MachineType) -> int:
    """The memory that jobs on a machine of this type can have together, cautiously; whole MiB, as Batch counts."""
    return (int(machine.memory * _REGISTERED_SHARE) - _REGISTERED_LESS_BYTES) // _MIB * _MIB


def slug(name: str) -> str:
    """A machine type's name as AWS allows it in names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def fleet_of(challenge: Challenge, choice: AwsChoice) -> Fleet:
    """The fleet that a challenge describes.

    Raises:
        ConfigurationError: if it names no machine types, or two whose queues would have one name.
    """
    machines = markets(challenge.machines)
    if not machines:
        raise ConfigurationError(
            "machines: the engine `aws-batch` needs machine types.", hint="Add [machines.NAME] sections: docs/aws.md."
        )
    if len({slug(name) for name in machines}) < len(machines):
        raise ConfigurationError("machines: two names differ only in signs.", hint="Rename one of them.")
    ceilings = {}
    for name, machine in machines.items():
        pool = challenge.quotas.get(machine.quota_pool or "")
        bounds = [int(pool // machine.cpus)] if pool else []
        bounds += [machine.count] if machine.count else []
        if bounds:
            ceilings[name] = max(1, min(bounds))
    return Fleet(machines, ceilings, challenge.engine.slots, alone=choice.alone, level=challenge.sandbox.level)
