"""The kinds of machine that attempts run on, and how they are bought."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal

from pydantic import Field

from referee.challenge.section import Frozen
from referee.units import Duration, Size, Usd


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


SPOT = " (spot)"


def markets(machines: Mapping[str, MachineType]) -> dict[str, MachineType]:
    """Each machine type as it is bought: on demand under its name and, where a price is given, on spot capacity."""
    bought: dict[str, MachineType] = {}
    for name, machine in machines.items():
        bought[name] = machine
        if machine.spot_price is not None:
            bought[name + SPOT] = machine.model_copy(update={"price": machine.spot_price})
    return bought
