"""Where attempts run: the engine and what each kind of it needs to know, and the sandbox that is accepted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from referee.challenge.section import Frozen
from referee.units import Duration, Size


class SmokeChoice(Frozen):
    """A short run of every submission before the full one; `items` is on how many files (None: there is none)."""

    items: int | None = Field(default=None, gt=0)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{path} is not an absolute path, which alone means the same on every machine")
    return path


class SlurmMachine(Frozen):
    """Where Slurm finds a machine type: its partition, node features, and the type of GPU in its GRES."""

    partition: str | None = None
    constraint: str | None = None
    gres: str | None = None


class SlurmChoice(Frozen):
    """How the engine `slurm` uses the cluster (docs/slurm.md).

    Attributes:
        shared: folder that submitting machine and nodes see under this path; images, data and results go through it.
        partition, account, qos: as for sbatch; by default the cluster's own.
        machines: what Slurm calls the machine types of `[machines]`.
        python: the nodes' Python that has Referee; by default the one that runs now.
        socket: where the nodes' wardens listen.
        reserve: memory of a job beside the sandbox's, for the worker.
        staging: time of a job beside the submission's, for staging, start and publishing.
        max_wait: after this, a job that has not started is given up.
        poll: between two questions to Slurm, while something changes.
        silence: after this, an unanswered controller gives up; its jobs go on.
        drain: have Slurm drain nodes with two host faults in a row; only administrators of Slurm may.
    """

    shared: Annotated[Path, AfterValidator(_absolute)]
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    machines: dict[str, SlurmMachine] = Field(default_factory=dict)
    python: Path | None = None
    socket: Path = Path("/run/referee/warden.sock")
    reserve: Size = 512 * 2**20
    staging: Duration = timedelta(minutes=30)
    max_wait: Duration = timedelta(days=1)
    poll: Duration = timedelta(seconds=10)
    silence: Duration = timedelta(minutes=15)
    drain: bool = False


class AwsChoice(Frozen):
    """The stack that the engine `aws-batch` uses (docs/aws.md).

    Attributes:
        stack: the name of the CloudFormation stack; everything in the account is called by it.
        region: such as `us-east-1`.
        profile: of the credentials on this machine; by default what AWS's tools find.
        alone: each submission gets a machine to itself.
        longest_wait: for a machine, while nothing of its queue moves; then the jobs are taken back.
        listen: between two times that events are fetched.
        look: between two times that states are looked up, because events may be lost.
    """

    stack: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    region: str = "us-east-1"
    profile: str | None = None
    alone: bool = False
    longest_wait: Duration = timedelta(hours=1)
    listen: Duration = timedelta(minutes=1)
    look: Duration = timedelta(minutes=5)


class EngineChoice(Frozen):
    """Where attempts run, and how many side by side (`slots`; by default as many as CPUs and memory allow).

    `machine` is the machine type that the engine `local` takes this machine for, and `image_cache` the most that
    unpacked images may take on it (by default half of the disk); on a cluster that is the administrator's to say.
    """

    name: str = "local"
    slots: int | None = Field(default=None, gt=0)
    machine: str = "local"
    image_cache: Size | None = Field(default=None, gt=0)
    order: Literal["random", "manifest"] = "random"
    seed: int = 0
    slurm: SlurmChoice | None = None
    aws: AwsChoice | None = None

    @model_validator(mode="after")
    def _cache_is_here(self) -> Self:
        if self.image_cache is not None and self.name in {"slurm", "aws-batch"}:
            where = "`cache` in the warden's settings (docs/slurm.md)" if self.name == "slurm" else "half of each disk"
            raise ValueError(f"image_cache is for the engine local; with {self.name} it is {where}")
        return self


class SandboxChoice(Frozen):
    """The least isolation level that is accepted, and risks that the operator accepts by name."""

    level: Literal["runc", "gvisor"] = "runc"
    accepted_risks: tuple[str, ...] = ()
