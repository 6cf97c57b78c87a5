"""What a submission meets: the phase's data, the contract its container sees, its limits, the predictions it owes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from referee.challenge.section import Frozen
from referee.units import Duration, Size


def _container_path(path: str) -> str:
    parts = PurePosixPath(path)
    if not parts.is_absolute() or ".." in parts.parts or str(parts) != path or path == "/":
        raise ValueError(f'{path!r} is not a plain absolute path inside the container, such as "/data"')
    if parts.parts[1] in {"proc", "sys", "dev", "etc"}:
        raise ValueError(f"{path!r} lies under a folder that belongs to the sandbox")
    return path


def _file_name(name: str) -> str:
    if not name or PurePosixPath(name).name != name or name in {".", ".."} or "\0" in name:
        raise ValueError(f'{name!r} is not a plain file name, such as "submission.csv"')
    return name


SCRATCH = "/tmp"  # noqa: S108 - a path inside the container, not of the host

ContainerPath = Annotated[str, AfterValidator(_container_path)]
FileName = Annotated[str, AfterValidator(_file_name)]


class Phase(Frozen):
    """One data set to be evaluated on. Paths are relative to the folder of `challenge.toml`.

    `sealed`: scores on it are shown to nobody, from the beginning until `referee unseal`.
    """

    data: Path
    labels: Path | None = None
    visibility: Literal["public", "private"]
    metadata: Path | None = None
    sealed: bool = False


class Contract(Frozen):
    """What a submission's container sees. A preset gives the paths; single keys override it."""

    preset: Literal["referee", "kaggle", "drivendata", "grand-challenge"] = "referee"
    data: ContainerPath = "/data"
    output: ContainerPath = "/output"
    predictions: FileName = "submission.csv"
    rootfs: Literal["read_only", "scratch"] = "read_only"
    user: Literal["unprivileged", "image"] = "unprivileged"
    tmp_exec: bool = False
    environment: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _apart(self) -> Contract:
        folders = {"data": self.data, "output": self.output}
        for key, path in folders.items():
            for other in (*(each for name, each in folders.items() if name != key), SCRATCH):
                if PurePosixPath(path).is_relative_to(other):
                    raise ValueError(f"{key}: {path} lies in {other}, which has another purpose in the sandbox")
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset", "referee") in PRESETS:
            return PRESETS[given.get("preset", "referee")] | given
        return given


# Where each platform's images look for their data and leave their predictions. Images built for the other
# platforms expect a writable root and their own user, hence `scratch` and `image`.
PRESETS: dict[str, dict[str, Any]] = {
    "referee": {},
    "kaggle": {
        "data": "/kaggle/input",
        "output": "/kaggle/working",
        "rootfs": "scratch",
        "user": "image",
        "tmp_exec": True,
    },
    "drivendata": {
        "data": "/code_execution/data",
        "output": "/code_execution/submission",
        "rootfs": "scratch",
        "user": "image",
        "tmp_exec": True,
    },
    "grand-challenge": {
        "data": "/input",
        "output": "/output",
        "rootfs": "scratch",
        "user": "image",
        "tmp_exec": True,
    },
}


class Limits(Frozen):
    """What one attempt may use. `wall_time` is stated on the reference machine type.

    `gpu_sharing` is how many attempts may have one GPU at once: never more than one unless the challenge says so.
    `least_cpus` lets the plan use machine types with fewer than `cpus`, where that is cheaper; an attempt has all of
    theirs then. A time-out there is never final: it is repeated on the reference type.
    """

    wall_time: Duration = timedelta(hours=9)
    cpus: float = Field(default=1.0, gt=0)
    least_cpus: float | None = Field(default=None, gt=0)
    memory: Size = 4 * 2**30
    shm: Size = 64 * 2**20
    scratch: Size = 2**30
    output: Size = 64 * 2**20
    output_files: int = Field(default=1024, gt=0)
    log: Size = 2**20
    pids: int = Field(default=512, ge=16)
    open_files: int = Field(default=1024, ge=64)
    gpus: int = Field(default=1, ge=0)
    gpu_sharing: int = Field(default=1, ge=1, le=16)

    @model_validator(mode="after")
    def _least(self) -> Limits:
        if self.fewest_cpus > self.cpus:
            raise ValueError("least_cpus must not be more than cpus")
        return self

    @property
    def fewest_cpus(self) -> float:
        """With how many CPUs a machine type is good enough."""
        return self.least_cpus or self.cpus

    @property
    def shares_gpus(self) -> bool:
        """Whether several attempts may have one GPU at once."""
        return self.gpu_sharing > 1


class PredictionFormat(Frozen):
    """How the prediction file must look: exactly these two columns, a row for each file of the phase."""

    id_column: str = "filename"
    value_column: str = "label"
    minimum: float = 0.0
    maximum: float = 1.0

    @model_validator(mode="after")
    def _range(self) -> PredictionFormat:
        if not self.minimum < self.maximum:
            raise ValueError("minimum must be smaller than maximum")
        return self
