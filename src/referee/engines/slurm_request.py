"""What a wave asks of Slurm: the options of its array, and the script that each of its children runs. Pure."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from referee.attempts import AttemptSpec
from referee.challenge import Limits, MachineType, SlurmChoice, SlurmMachine
from referee.engines.slurm_commands import PREFIX, array
from referee.sandbox.levels import gives_gpus, granted_bytes
from referee.sandbox.policy import Level, known_level

END_SECONDS = 60  # before the time limit, Slurm asks the worker to end in order

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """What one attempt needs. Those that need the same can go into one array."""

    machine_type: str
    limits: Limits
    gpus: int = 0
    level: Level = "runc"
    wall_time_scale: float = 1.0

    @classmethod
    def of(cls, spec: AttemptSpec) -> Self:
        """As its specification says."""
        return cls(spec.machine_type, spec.limits, spec.gpus, known_level(spec.level), spec.wall_time_scale)


def partition_of(choice: SlurmChoice, kind: str) -> str | None:
    """The partition of a machine type; None for the cluster's default."""
    machine = choice.machines.get(kind)
    return (machine.partition if machine else None) or choice.partition


def place_options(choice: SlurmChoice, kind: str = "") -> list[str]:
    """Where jobs of a machine type (or of none in particular) go, and on whose account."""
    machine = choice.machines.get(kind, SlurmMachine())
    named = {
        "partition": partition_of(choice, kind), "account": choice.account, "qos": choice.qos,
        "constraint": machine.constraint,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in named.items() if value]


def need_options(choice: SlurmChoice, needs: Needs) -> list[str]:
    """What of a node an attempt takes: the submission's share, the runtime's own, and the worker's."""
    memory_bytes = granted_bytes(needs.level, needs.limits.memory) + choice.reserve
    gres = choice.machines.get(needs.machine_type, SlurmMachine()).gres
    # Slurm's limit is the worker's own, with room for staging, start and publishing.
    seconds = needs.limits.wall_time.total_seconds() * needs.wall_time_scale + choice.staging.total_seconds()
    return [
        "--nodes=1", "--ntasks=1", f"--cpus-per-task={math.ceil(needs.limits.cpus)}",
        f"--mem={math.ceil(memory_bytes / _MIB)}M", f"--time={math.ceil((seconds + END_SECONDS) / 60)}",
        *([f"--gres=gpu:{f'{gres}:' if gres else ''}{needs.gpus}"] if needs.gpus else []),
        *place_options(choice, needs.machine_type),
    ]  # fmt: skip


def wave_options(choice: SlurmChoice, wave: str, count: int, needs: Needs, log: Path) -> list[str]:
    """All of sbatch's options for a wave of so many attempts."""
    return [
        f"--job-name={PREFIX}{wave}", f"--array={array(range(count))}", "--no-requeue", "--open-mode=append",
        "--chdir=/", f"--signal=B:TERM@{END_SECONDS}", f"--output={log}", "--export=PATH",
        *need_options(choice, needs),
    ]  # fmt: skip


def wave_script(choice: SlurmChoice, wave: str, objects: str) -> str:
    """What each child runs: the errand for the attempt of its index."""
    words = [*errand(choice), "--objects", objects, "--wave", wave]
    told = '--index "$SLURM_ARRAY_TASK_ID" --node "$SLURMD_NODENAME"'
    job = '--job "slurm/${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"'
    return f"#!/bin/sh\nexec {shlex.join(words)} {told} {job}\n"


def errand(choice: SlurmChoice) -> list[str]:
    """The command line of the user's part of a job."""
    return [str(choice.python or sys.executable), "-m", "referee.worker.errand", "--socket", str(choice.socket)]


def for_submissions(choice: SlurmChoice, machine: MachineType, level: Level) -> MachineType:
    """What of a machine a submission can have: the worker's share and the runtime's own are gone."""
    memory_bytes = max(1, machine.memory - choice.reserve - granted_bytes(level, 0))
    return machine.model_copy(update={"memory": memory_bytes, "gpus": machine.gpus if gives_gpus(level) else 0})
