"""`Challenge`: all sections of the file together."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from referee.challenge.contract import Contract, Limits, Phase, PredictionFormat
from referee.challenge.engines import EngineChoice, SandboxChoice, SmokeChoice
from referee.challenge.machines import MachineType
from referee.challenge.places import LedgerChoice, ObjectsChoice
from referee.challenge.scoring import MetricChoice, ReproductionChoice, UncertaintyChoice
from referee.challenge.section import Frozen
from referee.errors import ConfigurationError
from referee.units import Usd

FILE_NAME = "challenge.toml"
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


def _in_a_time_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone: write it as {moment.isoformat()}Z, or with +02:00 behind it")
    return moment


class Challenge(Frozen):
    """The whole of `challenge.toml`, validated. `folder` is where it lies; all its paths are below."""

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")]
    title: str = ""
    deadline: Annotated[datetime, AfterValidator(_in_a_time_zone)] | None = None
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
