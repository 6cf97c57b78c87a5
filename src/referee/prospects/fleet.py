"""The machine types that a challenge's attempts can run on, as the planner's catalogue; no engine is started for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from referee.challenge import Challenge, MachineType, markets
from referee.engines.hardware import this_machine
from referee.engines.slots import Needs, Slots
from referee.errors import ConfigurationError
from referee.planning.catalogue import Catalogue, Offer, own_offers, shipped_catalogue
from referee.routing import limits_on

# On the others a spot machine is a node like any that may be lost.
_RENT_SPOT = frozenset({"aws-batch"})


def machine_types(challenge: Challenge) -> dict[str, MachineType]:
    """What the challenge's engine can place attempts on, with how many side by side where that is known.

    The engine `local` has this machine, in as many equal parts as it takes attempts side by side.
    """
    if challenge.engine.name != "local":
        # Without rows of its own, an engine has one machine type of this name.
        count = 1 if challenge.engine.name == "memory" else None
        unknown = MachineType(cpus=64, memory=2**40, reference=True, count=count)
        return dict(challenge.machines) or {challenge.engine.machine: unknown}
    hardware = this_machine()
    name = challenge.engine.machine
    described = challenge.machines.get(name) or MachineType(
        cpus=len(hardware.cpus),
        memory=hardware.memory_bytes,
        gpus=len(hardware.gpus),
        gpu_memory=max((gpu.memory_bytes for gpu in hardware.gpus), default=0) or 1 if hardware.gpus else None,
        reference=True,
        price_source="this machine",
    )
    limits = limits_on(challenge.limits, described)
    needs = Needs(limits.cpus, limits.memory)
    slots = Slots(replace(hardware, others_bytes=0), challenge.engine.slots).room(needs)
    return {name: described.model_copy(update={"count": max(slots, 1)})}


def bought(challenge: Challenge) -> dict[str, MachineType]:
    """The same as the engine places attempts on them: spot capacity is a type of its own, where the engine rents it."""
    types = machine_types(challenge)
    return markets(types) if challenge.engine.name in _RENT_SPOT else types


def fleet(challenge: Challenge) -> Catalogue:
    """The catalogue that a plan for the challenge's own engine is made from."""
    return Catalogue(name=f"engine {challenge.engine.name}", offers=_offers(challenge, machine_types(challenge)))


def used(challenge: Challenge) -> Catalogue:
    """The catalogue for what has run: with spot capacity, which a plan considers only if it is asked to."""
    return Catalogue(name=f"engine {challenge.engine.name}", offers=_offers(challenge, bought(challenge)))


def everything(challenge: Challenge | None, shipped: str) -> Catalogue:
    """Own machines and partitions first, then the types of a shipped table."""
    own: dict[str, MachineType] = {}
    if challenge is not None:
        # A cluster's own machine type is not known here unless the challenge describes it.
        described = challenge.engine.name in {"local", "memory"} or challenge.machines
        own = machine_types(challenge) if described else {}
        own |= {name: each for name, each in challenge.machines.items() if name not in own}
    return shipped_catalogue(shipped).joined(_offers(challenge, own) if challenge is not None else own_offers(own))


def _offers(challenge: Challenge, machines: Mapping[str, MachineType]) -> dict[str, Offer]:
    """With a boot for each evaluation, where each has a machine to itself."""
    alone = challenge.engine.name == "aws-batch" and challenge.engine.aws is not None and challenge.engine.aws.alone
    return {name: offer.model_copy(update={"alone": alone}) for name, offer in own_offers(machines).items()}


def chosen(challenge: Challenge, names: Sequence[str], shipped: str) -> Catalogue:
    """The machine types to plan with: those named, of all tables; without any, those that the engine has.

    Raises:
        ConfigurationError: if there is no type of that name, or a quota is for a pool that none of them has.
    """
    table = everything(challenge, shipped)
    catalogue = table.only(names) if names else fleet(challenge)
    _check_quotas(challenge.quotas, table)
    return catalogue


def _check_quotas(quotas: Mapping[str, float], table: Catalogue) -> None:
    pools = {offer.quota_pool for offer in table.offers.values()} - {None}
    for pool in quotas:
        if pool not in pools:
            raise ConfigurationError(
                f"[quotas]: no machine type counts against {pool!r}.",
                hint=f"There are: {', '.join(sorted(str(name) for name in pools))}.",
            )
