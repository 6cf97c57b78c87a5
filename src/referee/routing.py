"""Which machine type an evaluation goes to: pure, from what it needs and what the machines have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from referee.challenge import Challenge, Limits, MachineType, markets
from referee.policy import Demand
from referee.units import format_size


@dataclass(frozen=True, slots=True)
class Route:
    """A machine type, and the factor on the wall time limit there."""

    machine_type: str
    reference: bool
    wall_time_scale: float


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Why no machine type fits, for the operator."""

    reason: str


def route(
    challenge: Challenge,
    machines: Mapping[str, MachineType],
    kind: str,
    demand: Demand,
    *,
    outgrown: Collection[str] = (),
    among: Collection[str] | None = None,
    only: str | None = None,
    closed: Collection[str] = (),
) -> Route | NoRoute:
    """The cheapest machine type that fits; the fastest of equally cheap ones.

    Args:
        challenge: for its limits.
        machines: the machine types that the engine has now.
        kind: `cpu` or `gpu`.
        demand: what the policy asks of the next machine.
        outgrown: the machine types on which its GPU memory ran out, above all of which `MORE_GPU_MEMORY` looks.
        among: the machine types that the plan has for it; where none of them fits, any other does.
        only: the one machine type that it is bound to.
        closed: machine types that take nothing now, and so are chosen only where no other would do.
    """
    # A machine type is not the reference because the others cannot be had, or were not asked for.
    sole = len(machines) == 1 and not any(machine.reference for machine in challenge.machines.values())
    if only is not None:
        machines = {name: machine for name, machine in machines.items() if name == only}
        if not machines:
            return NoRoute(f"The engine has no machine type {only} now, to which the run is bound.")
    gpus = challenge.limits.gpus if kind == "gpu" else 0
    fitting = {name: machine for name, machine in machines.items() if not lacks(machine, challenge.limits, gpus)}
    if not fitting:
        reasons = [f"{name}: {lacks(machine, challenge.limits, gpus)}" for name, machine in machines.items()]
        return NoRoute("No machine type fits. " + "; ".join(reasons) + ".")
    if demand is Demand.ANY:
        fitting = {name: machine for name, machine in fitting.items() if name not in closed} or fitting
    if among is not None:
        fitting = {name: machine for name, machine in fitting.items() if name in among} or fitting
    if demand is Demand.REFERENCE:
        fitting = {name: machine for name, machine in fitting.items() if machine.reference} or fitting
    if demand is Demand.MORE_GPU_MEMORY:
        known = {**markets(challenge.machines), **machines}  # where it ran out may be what cannot be had now
        least = max((known[name].gpu_memory or 0 for name in outgrown if name in known), default=0)
        larger = {name: machine for name, machine in fitting.items() if (machine.gpu_memory or 0) > least}
        fitting = {name: machine for name, machine in larger.items() if name not in closed} or larger or fitting
    name = min(fitting, key=lambda name: (fitting[name].price, -fitting[name].speed, name))
    machine = fitting[name]
    return Route(name, machine.reference or sole, 1.0 / machine.speed)


def limits_on(limits: Limits, machine: MachineType) -> Limits:
    """The limits as they hold on a machine type: where `least_cpus` allows it, all of its CPUs may be fewer."""
    if machine.cpus >= limits.cpus:
        return limits
    return limits.model_copy(update={"cpus": max(machine.cpus, limits.fewest_cpus)})


def lacks(machine: MachineType, limits: Limits, gpus: int) -> str:
    """What a machine type lacks for an attempt with these limits, in words; empty if it fits."""
    if machine.gpus < gpus:
        return f"has {machine.gpus} GPUs, {gpus} needed"
    if machine.cpus < limits.fewest_cpus:
        return f"has {machine.cpus:g} CPUs, {limits.fewest_cpus:g} needed"
    if machine.memory < limits.memory:
        return f"has {format_size(machine.memory)} of memory, {format_size(limits.memory)} needed"
    return ""
