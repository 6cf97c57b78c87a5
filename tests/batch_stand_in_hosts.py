"""Machines of the stand-in for AWS Batch: each takes jobs as its CPUs, memory and GPUs allow, and can be taken away."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Kind:
    """What the machines of a compute environment are, and how many there can be."""

    vcpus: int = 4
    registered_mib: int = 15_500
    gpus: int = 0
    most: int = 4
    spot: bool = False
    instance_type: str = "c5.large"


class Execution(Protocol):
    """A job's container."""

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


Start = Callable[["Host", Sequence[str], Mapping[str, str]], Execution]


@dataclass
class Host:
    """A machine: `launched`, `ready` and `gone` are times of the stand-in's clock."""

    queue: str
    kind: Kind
    launched: float
    ready: float
    folder: Path
    id: str = field(default_factory=lambda: f"i-{secrets.token_hex(8)[:17]}")
    gone: float | None = None
    idle_since: float | None = None
    reclaimed_at: float | None = None
    draining: bool = False
    gpus: dict[str, str | None] = field(default_factory=dict)  # UUID: the job that has it
    jobs: dict[str, tuple[int, int]] = field(default_factory=dict)  # id: (vcpus, MiB)
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        self.gpus = {f"GPU-{secrets.token_hex(4)}-{number}": None for number in range(self.kind.gpus)}

    @property
    def container_instance(self) -> str:
        """Its name in ECS."""
        return f"arn:aws:ecs:us-east-1:123456789012:container-instance/batch/{self.id.removeprefix('i-')}"

    @property
    def power(self) -> Path:
        """Where it is switched off from inside, in place of `/proc/sysrq-trigger`."""
        return self.folder / "power"

    def takes(self, needs: Mapping[str, int]) -> bool:
        """Whether a job with these needs fits now."""
        vcpus = sum(each[0] for each in self.jobs.values())
        memory = sum(each[1] for each in self.jobs.values())
        free_gpus = sum(job is None for job in self.gpus.values())
        return (
            self.gone is None
            and not self.draining
            and vcpus + needs["VCPU"] <= self.kind.vcpus
            and memory + needs["MEMORY"] <= self.kind.registered_mib
            and needs["GPU"] <= free_gpus
        )

    def give(self, job: str, needs: Mapping[str, int]) -> list[str]:
        """Set the job's share aside; returns the UUIDs of its GPUs."""
        self.jobs[job] = (needs["VCPU"], needs["MEMORY"])
        given = [uuid for uuid, holder in self.gpus.items() if holder is None][: needs["GPU"]]
        self.gpus.update(dict.fromkeys(given, job))
        return given

    def take_back(self, job: str) -> None:
        """The job has ended."""
        self.jobs.pop(job, None)
        self.gpus.update({uuid: None for uuid, holder in self.gpus.items() if holder == job})


class ProcessExecution:
    """The job's command as a process of this machine: no container is around it, as a stand-in has none."""

    def __init__(self, host: Host, command: Sequence[str], environment: Mapping[str, str]) -> None:
        words = [sys.executable if word == "python" else word for word in command]
        with (host.folder.parent / f"{host.id}.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],  # with the thread that started it, at the latest
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], **environment},
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit status, as containers have it; `None` while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """SIGTERM to PID 1 of the container."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, as when the machine is gone; what the process started has to end with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
