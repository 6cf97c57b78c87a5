"""`challenge.toml`: what is judged, under which contract and limits, by which metric, on which machines.

Every wrong key, type, unit or missing file becomes one sentence that names the place in the file and
the valid choices (`load_challenge`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from referee.errors import ConfigurationError
from referee.units import Duration, Size, Usd

FILE_NAME = "challenge.toml"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


class Frozen(BaseModel):
    """Data that never changes after it was validated, with no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    """

    wall_time: Duration = timedelta(hours=9)
    cpus: float = Field(default=1.0, gt=0)
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


class MetricChoice(Frozen):
    """The primary metric, its parameters, and secondary metrics that are shown beside it."""

    name: str = "log_loss"
    epsilon: float = Field(default=1e-15, gt=0, lt=0.5)
    secondary: tuple[str, ...] = ()

    def grows_into(self, other: MetricChoice) -> bool:
        """Whether `other` is this choice, or this with more secondary metrics: no score that stands changes by it."""
        same = (self.name, self.epsilon) == (other.name, other.epsilon)
        return same and set(self.secondary) <= set(other.secondary)


class ReproductionChoice(Frozen):
    """When a re-run on a public phase counts as the recorded one; to be fixed before it is made.

    Attributes:
        phase: the public phase that decides; by default the last public one in the file.
        tolerance: difference of scores that is still the same.
        prediction_tolerance: difference of one prediction that is float noise.
        decimals: with how many decimals the recorded scores were published.
        required: a submission that does not reproduce is not run on private phases, unless it is admitted by a ruling.
    """

    phase: str | None = None
    tolerance: float = Field(default=1e-3, ge=0)
    prediction_tolerance: float = Field(default=1e-6, ge=0)
    decimals: int = Field(default=5, ge=0, le=17)
    required: bool = False


class Reduction(StrEnum):
    """How a team's finals become the team's one entry; declared in advance."""

    BEST = "best"
    LAST = "last"
    MEAN = "mean"


class UncertaintyChoice(Frozen):
    """How uncertainty is told; to be fixed before anything is scored.

    Attributes:
        replicates: bootstrap replicates.
        seed: of the draws.
        level: of score intervals, rank sets and rank ranges.
        tie_error: family-wise error of the tie groups.
        cluster_column: metadata column whose values are drawn as a whole; None draws items singly.
        teams: how a team's finals become its one entry; None leaves each submission an entry of its own.
        prize_places: boundaries that are looked at, each behind this many entries.
    """

    replicates: int = Field(default=10_000, ge=100)
    seed: int = 0
    level: float = Field(default=0.9, gt=0, lt=1)
    tie_error: float = Field(default=0.05, gt=0, lt=1)
    cluster_column: str | None = None
    teams: Reduction | None = None
    prize_places: tuple[int, ...] = (1,)


class MachineType(Frozen):
    """A kind of machine that attempts run on. Prices are US dollars for an hour of one attempt.

    Attributes:
        gpu_memory: bytes of one GPU's memory, as sold; `gpu_memory_usable`: what a program can get of it.
        speed: relative to the reference machine type, until a pilot has measured it.
        count: how many there are; None: as many as quota and money allow.
        boot: from the request for a machine until its first attempt can start; paid for.
        quota_pool: which of the quotas in `[quotas]` its CPUs count against.
        billing_granularity, billing_minimum: time is billed in steps of this, and at least for that.
        price_date, price_source, spot_date, spot_source: when and where the prices stood so.
    """

    cpus: float = Field(gt=0)
    memory: Size
    gpus: int = Field(default=0, ge=0)
    gpu_model: str | None = None
    gpu_memory: Size | None = None
    gpu_memory_usable: Size | None = None
    price: Usd = Decimal(0)
    spot_price: Usd | None = None
    speed: float = Field(default=1.0, gt=0)
    reference: bool = False
    count: int | None = Field(default=None, gt=0)
    boot: Duration | None = None
    quota_pool: str | None = None
    region: str = "own"
    billing_granularity: Duration = timedelta(seconds=1)
    billing_minimum: Duration | None = None
    price_date: date | None = None
    price_source: str | None = None
    spot_date: date | None = None
    spot_source: str | None = None


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

    stack: Annotated[str, Field(pattern=r"[a-z][a-z0-9-]{0,31}")]
    region: str = "us-east-1"
    profile: str | None = None
    alone: bool = False
    longest_wait: Duration = timedelta(hours=1)
    listen: Duration = timedelta(minutes=1)
    look: Duration = timedelta(minutes=5)


class EngineChoice(Frozen):
    """Where attempts run, and how many side by side (`slots`; by default as many as CPUs and memory allow).

    `machine` is the machine type that the engine `local` takes this machine for.
    """

    name: str = "local"
    slots: int | None = Field(default=None, gt=0)
    machine: str = "local"
    order: Literal["random", "manifest"] = "random"
    seed: int = 0
    slurm: SlurmChoice | None = None
    aws: AwsChoice | None = None


class SandboxChoice(Frozen):
    """The least isolation level that is accepted, and risks that the operator accepts by name."""

    level: Literal["runc", "gvisor"] = "runc"
    accepted_risks: tuple[str, ...] = ()


def _address(url: str) -> str:
    # Never printed as it was found: it may hold a password.
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError('it must be like "postgresql://USER@HOST/DATABASE"')
    if re.search(r"://[^/?#]*:[^/?#]*@|[?&]password=", url):
        raise ValueError("it holds a password, which belongs into ~/.pgpass: this file is copied and committed")
    return url


class LedgerChoice(Frozen):
    """Where the ledger lies: by default in a file below the challenge's folder (docs/ledger.md).

    `url` is the address of a PostgreSQL database, without a password; `?schema=NAME` names the campaign's schema, which
    is called like the challenge otherwise.
    """

    url: Annotated[str, AfterValidator(_address)] | None = None


class ObjectsChoice(Frozen):
    """Where images, data and results lie: by default in a folder below the challenge's (docs/ledger.md).

    Attributes:
        url: `s3://BUCKET/PREFIX`.
        region: of the bucket.
        endpoint: of another service than AWS that speaks S3, such as `https://minio.example:9000`.
    """

    url: Annotated[str, Field(pattern=r"^s3://[^?#]+$")] | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] | None = None
    endpoint: Annotated[str, Field(pattern=r"^https?://[^?#@]+$")] | None = None


class Challenge(Frozen):
    """The whole of `challenge.toml`, validated. `folder` is where it lies; all its paths are below."""

    name: Annotated[str, Field(pattern=_NAME.pattern)]
    title: str = ""
    deadline: datetime | None = None
    budget: Usd | None = None
    finals_per_team: int = Field(default=2, gt=0)
    phases: dict[str, Phase] = Field(min_length=1)
    contract: Contract = Contract()
    limits: Limits = Limits()
    predictions: PredictionFormat = PredictionFormat()
    metric: MetricChoice = MetricChoice()
    uncertainty: UncertaintyChoice = UncertaintyChoice()
    reproduction: ReproductionChoice = ReproductionChoice()
    machines: dict[str, MachineType] = Field(default_factory=dict)
    quotas: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    smoke: SmokeChoice = SmokeChoice()
    duplicates: Literal["run_each", "run_once"] = "run_each"
    engine: EngineChoice = EngineChoice()
    sandbox: SandboxChoice = SandboxChoice()
    ledger: LedgerChoice = LedgerChoice()
    objects: ObjectsChoice = ObjectsChoice()
    folder: Path = Path()

    @property
    def state_folder(self) -> Path:
        """Where Referee keeps the ledger, the objects and the node's cache of this challenge."""
        return self.folder / ".referee"

    def phase(self, name: str) -> Phase:
        """The phase called `name`.

        Raises:
            ConfigurationError: if there is none, with the names that there are.
        """
        if name not in self.phases:
            raise ConfigurationError(
                f"There is no phase {name!r} in {FILE_NAME}.", hint=f"Choose one of: {', '.join(self.phases)}."
            )
        return self.phases[name]


SPOT = " (spot)"


def markets(machines: Mapping[str, MachineType]) -> dict[str, MachineType]:
    """Each machine type as it is bought: on demand under its name and, where a price is given, on spot capacity."""
    bought: dict[str, MachineType] = {}
    for name, machine in machines.items():
        bought[name] = machine
        if machine.spot_price is not None:
            bought[name + SPOT] = machine.model_copy(update={"price": machine.spot_price})
    return bought


def find_challenge(start: Path) -> Path:
    """The `challenge.toml` in `start`.

    Raises:
        ConfigurationError: if there is none there.
    """
    path = start / FILE_NAME if start.is_dir() else start
    if not path.is_file():
        raise ConfigurationError(
            f"There is no {FILE_NAME} in {path.parent}.",
            hint="Go to your challenge's folder, or make one with `referee init NAME`.",
        )
    return path


def load_challenge(path: Path) -> Challenge:
    """Read and validate a challenge file (or the folder that holds it).

    Raises:
        ConfigurationError: with one line for each thing that is wrong: the place, what is wrong, what is valid.
    """
    path = find_challenge(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.", hint="Mend that line and try again.") from error
    if "folder" in raw:
        raise ConfigurationError(f"{path}: folder: there is no such key.", hint="Paths are relative to the file.")
    try:
        challenge = Challenge.model_validate(raw | {"folder": path.parent.resolve()})
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
        raise ConfigurationError(
            f"{path}: " + "\n".join(problems), hint="`referee init` writes a commented example with every key."
        ) from error
    _check_files(challenge, path)
    return challenge


def _sentence(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the file"
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        valid = _keys_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1)
        guess = f" Did you mean `{near[0]}`?" if near else ""
        return f"{place}: there is no such key.{guess} Valid keys here: {', '.join(valid)}."
    if kind == "missing":
        return f"{place}: this key is required."
    if kind == "literal_error":
        return f"{place}: {problem['input']!r} is not one of {context['expected']}."
    if kind == "value_error":
        return f"{place}: {context['error']}."
    return f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]} (found {problem['input']!r})."


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    model: Any = Challenge
    for part in location:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is not None:
            model = field.annotation
        elif getattr(model, "__origin__", None) is dict:
            model = model.__args__[1]
    fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
    return [name for name in fields if name != "folder"]


def _check_files(challenge: Challenge, path: Path) -> None:
    chosen = challenge.reproduction.phase
    if chosen is not None and (chosen not in challenge.phases or challenge.phases[chosen].visibility != "public"):
        public = [name for name, phase in challenge.phases.items() if phase.visibility == "public"]
        raise ConfigurationError(
            f"{path}: reproduction.phase: {chosen!r} is not a public phase.",
            hint=f"Public phases: {', '.join(public) or 'none'}.",
        )
    for name, phase in challenge.phases.items():
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{path}: phases.{name}: a phase's name is made of a-z, 0-9, _ and -.", hint="Rename the phase."
            )
        if not (challenge.folder / phase.data).is_dir():
            raise ConfigurationError(
                f"{path}: phases.{name}.data: there is no folder {challenge.folder / phase.data}.",
                hint="Put the phase's files there, or correct the path (it is relative to challenge.toml).",
            )
        for key, file in (("labels", phase.labels), ("metadata", phase.metadata)):
            if file is not None and not (challenge.folder / file).is_file():
                raise ConfigurationError(
                    f"{path}: phases.{name}.{key}: there is no file {challenge.folder / file}.",
                    hint="Correct the path (it is relative to challenge.toml), or remove the key.",
                )
        if phase.labels is not None and (challenge.folder / phase.labels).resolve().is_relative_to(
            (challenge.folder / phase.data).resolve()
        ):
            raise ConfigurationError(
                f"{path}: phases.{name}.labels: the labels lie in the data folder, where submissions could read them.",
                hint="Move them out of the data folder.",
            )
