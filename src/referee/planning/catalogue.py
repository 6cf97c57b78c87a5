"""Machine types with their prices: the shipped tables, the operator's own rows, this machine, all in one table.

Each price carries its date and its source; a type without a clean source is not in the table. The shipped tables lie in
`data/` as TOML, in the same form as `[machines.*]` in `challenge.toml`, so that a row can be copied over.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from importlib import resources
from typing import Any

from pydantic import Field, model_validator

from referee.challenge import Frozen, MachineType
from referee.errors import ConfigurationError
from referee.units import Duration, Size, Usd

HISTORICAL = "aws-2020-08"
LATEST = "aws-2022-03"
SHIPPED = (HISTORICAL, LATEST)


class Offer(Frozen):
    """A kind of machine, what it costs, and how it is billed.

    Attributes:
        cpus: virtual CPUs; also what it takes from its quota pool.
        memory: bytes of main memory.
        gpus: number of GPUs.
        gpu_memory: bytes of one GPU's memory, as sold.
        gpu_memory_usable: bytes of it that a program can get, where known.
        price: US dollars for an hour, on demand.
        spot_price: US dollars for an hour of spot capacity; None where none was seen.
        boot: from the request until the first job can start.
        alone: each evaluation has a machine to itself, and so pays for its boot.
        quota_pool: the provider's name of the quota that it counts against; None: not limited by one.
        count: how many there are, for own machines; None: as many as quota and money allow.
        speed: relative to the reference machine type, until a pilot has measured it for each submission.
        billing_granularity: time is billed in steps of this.
        billing_minimum: and at least for this.
        interrupted_hour_free: a spot machine that is taken away within its first hour costs nothing (EC2's rule).
        price_date: when the price stood so.
        price_source: where it stood so.
    """

    cpus: float = Field(gt=0)
    memory: Size
    gpus: int = Field(default=0, ge=0)
    gpu_model: str | None = None
    gpu_memory: Size | None = None
    gpu_memory_usable: Size | None = None
    price: Usd
    spot_price: Usd | None = None
    region: str = "own"
    boot: Duration | None = None
    alone: bool = False
    quota_pool: str | None = None
    count: int | None = Field(default=None, gt=0)
    speed: float = Field(default=1.0, gt=0)
    billing_granularity: Duration = timedelta(seconds=1)
    billing_minimum: Duration | None = None
    interrupted_hour_free: bool = False
    price_date: date | None = None
    price_source: str
    spot_date: date | None = None
    spot_source: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Offer:
        if (self.gpus > 0) != (self.gpu_memory is not None):
            raise ValueError("a machine with GPUs states gpu_memory, and one without does not")
        if self.spot_price is not None and self.spot_source is None:
            raise ValueError("a spot price needs its spot_source")
        return self

    @property
    def boot_hours(self) -> float:
        """Hours until a fresh machine can start its first job, paid for once a machine; 0 where each job pays them."""
        return 0.0 if self.alone else self._boot_hours

    @property
    def boot_of_each_hours(self) -> float:
        """Hours of boot that each evaluation waits and pays for; 0 where machines are kept for the next one."""
        return self._boot_hours if self.alone else 0.0

    @property
    def _boot_hours(self) -> float:
        return self.boot.total_seconds() / 3600 if self.boot else 0.0

    @property
    def gpu_memory_bytes(self) -> int:
        """What a program can get of one GPU's memory; 0 without a GPU."""
        return self.gpu_memory_usable or self.gpu_memory or 0

    def billed_hours(self, hours: float) -> float:
        """Hours on the bill for a machine that was up for `hours`."""
        step = self.billing_granularity.total_seconds() / 3600
        least = self.billing_minimum.total_seconds() / 3600 if self.billing_minimum else 0.0
        # A tiny part of a step is the rounding of floats, not use.
        return max(math.ceil(hours / step - 1e-9) * step, least)


class Catalogue(Frozen):
    """Machine types by name."""

    name: str
    offers: dict[str, Offer]

    def offer(self, name: str) -> Offer:
        """The machine type called `name`.

        Raises:
            ConfigurationError: if there is none.
        """
        if name not in self.offers:
            raise ConfigurationError(
                f"There is no machine type {name!r} in the catalogue {self.name}.",
                hint=f"Add it under [machines.*] with its price, or choose one of: {', '.join(sorted(self.offers))}.",
            )
        return self.offers[name]

    def only(self, names: Iterable[str]) -> Catalogue:
        """The catalogue with these machine types only, in this order.

        Raises:
            ConfigurationError: if there is no such type.
        """
        return Catalogue(name=self.name, offers={name: self.offer(name) for name in names})

    def joined(self, own: Mapping[str, Offer]) -> Catalogue:
        """The catalogue with the operator's own rows, which win over rows of the same name."""
        return Catalogue(name=self.name, offers={**own, **{k: v for k, v in self.offers.items() if k not in own}})


def shipped_catalogue(name: str = LATEST) -> Catalogue:
    """One of the tables that come with the package (`SHIPPED`).

    Raises:
        ConfigurationError: if there is none of that name.
    """
    if name not in SHIPPED:
        raise ConfigurationError(f"There is no catalogue {name!r}.", hint=f"Choose one of: {', '.join(SHIPPED)}.")
    text = resources.files("referee.planning").joinpath("data", f"{name}.toml").read_text(encoding="utf-8")
    return parse_catalogue(text)


def parse_catalogue(text: str) -> Catalogue:
    """Read a table: what all its machine types share under `[catalogue]`, and a row for each under `[machines]`.

    Raises:
        pydantic.ValidationError: if a row lacks a value, or has a wrong one.
        tomllib.TOMLDecodeError: if it is not TOML.
    """
    raw = tomllib.loads(text)
    shared = dict(raw["catalogue"])
    name = shared.pop("name")
    spot = {key: shared.pop(key) for key in ("spot_date", "spot_source") if key in shared}
    rows = {row: shared | (spot if "spot_price" in facts else {}) | facts for row, facts in raw["machines"].items()}
    return Catalogue.model_validate({"name": name, "offers": rows})


def own_offers(machines: Mapping[str, MachineType]) -> dict[str, Offer]:
    """The machine types that the operator declared in `challenge.toml`; a price of zero is a machine that is there."""
    return {name: _own(machine) for name, machine in machines.items()}


def this_machine(cpus: float, memory_bytes: int, price: Decimal = Decimal(0), *, slots: int = 1) -> Offer:
    """The machine that the operator sits at, as `slots` equal parts; the price is its electricity's, if any."""
    return Offer(cpus=cpus, memory=memory_bytes, price=price / slots, count=slots, price_source="this machine")


def _own(machine: MachineType) -> Offer:
    facts: dict[str, Any] = machine.model_dump(include=set(Offer.model_fields) & set(MachineType.model_fields))
    facts["price_source"] = facts.get("price_source") or "challenge.toml"
    if facts.get("spot_price") is not None:
        facts["spot_source"] = facts.get("spot_source") or "challenge.toml"
    if not machine.gpus:
        facts["gpu_memory"] = None
    elif machine.gpu_memory is None:
        raise ConfigurationError(
            "A machine type under [machines.*] has GPUs but no gpu_memory.",
            hint='Write it, such as gpu_memory = "16GiB".',
        )
    return Offer.model_validate(facts)
