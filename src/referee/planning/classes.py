"""Classes of measured need: which evaluations of a kind need no more than so much of a machine.

A kind is divided by what was measured of each submission: those with GPUs by the GPU memory that they need, the others
by the CPUs that they keep busy. The bounds are what the machine types offer, so a class says which types are enough.
Which class an evaluation is in is computed from its measurements and the bounds alone: a plan need not list anybody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from referee.challenge import Frozen
from referee.units import format_size

# A few files need a little less GPU memory than all of them may.
_MARGIN = 0.10
# Who keeps so much of its CPUs busy might use more.
_ALL_BUSY = 0.90
# So much more than a machine type has is lost on it without harm.
_SLACK = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one evaluation. Zero: not measured.

    Attributes:
        cpus: mean number of CPUs that it kept busy.
        granted_cpus: of how many.
        gpu_memory_bytes: the largest peak.
        held_bytes: the smallest GPU memory on which it went through.
        outgrown_bytes: the largest GPU memory on which it ran out.
    """

    cpus: float = 0.0
    granted_cpus: float = 0.0
    gpu_memory_bytes: int = 0
    held_bytes: int = 0
    outgrown_bytes: int = 0


class NeedClass(Frozen):
    """Evaluations of a kind that need no more than this, and more than the next smaller class has.

    Attributes:
        measure: what `up_to` bounds: CPUs kept busy, or bytes of GPU memory.
        evaluations: how many were measured to be in it when the plan was made, those that had ended among them.
        machine_types: those that are enough.
    """

    name: str
    kind: str
    measure: Literal["cpus", "gpu_memory"]
    up_to: float
    evaluations: int = 0
    machine_types: tuple[str, ...] = ()


class Holding(Protocol):
    """What a machine type has, in the catalogue as in challenge.toml."""

    @property
    def cpus(self) -> float: ...
    @property
    def gpu_memory(self) -> int | None: ...
    @property
    def gpu_memory_usable(self) -> int | None: ...


def gpu_bytes(machine: Holding) -> int:
    """What a program can get of one GPU's memory; 0 without a GPU."""
    return machine.gpu_memory_usable or machine.gpu_memory or 0


def needed(measured: Measured, measure: Literal["cpus", "gpu_memory"]) -> float | None:
    """How much an evaluation needs; infinite for the most that there is; None where it was not measured.

    Some frameworks take whatever memory a GPU has. So who went through on a type is never sent above it, whatever its
    peak; the margin is for going below.
    """
    if measure == "cpus":
        if measured.cpus <= 0:
            return None
        saturated = measured.cpus >= _ALL_BUSY * measured.granted_cpus
        return math.inf if saturated else measured.cpus / (1 + _SLACK)
    if not measured.gpu_memory_bytes and not measured.outgrown_bytes:
        return None
    peak = measured.gpu_memory_bytes * (1 + _MARGIN)
    if measured.held_bytes:
        peak = min(peak, measured.held_bytes)
    return max(peak, measured.outgrown_bytes + 1 if measured.outgrown_bytes else 0)


def class_of(kind: str, measured: Measured | None, classes: Sequence[NeedClass]) -> str:
    """The name of an evaluation's class; its kind where it was not measured, or the kind is not divided."""
    mine = sorted((each for each in classes if each.kind == kind), key=lambda each: each.up_to)
    need = needed(measured, mine[0].measure) if measured is not None and mine else None
    if need is None:
        return kind
    return next((each.name for each in mine if need <= each.up_to), mine[-1].name)


def classes_of(
    kind: str, machines: Mapping[str, Holding], measured: Sequence[Measured], *, gpus: int, cpus: float
) -> tuple[NeedClass, ...]:
    """The classes of a kind, smallest first; none where they would say nothing that the kind does not.

    Args:
        kind: such as `cpu`.
        machines: the machine types that the kind fits.
        measured: of its evaluations.
        gpus: how many one needs.
        cpus: the most that one is granted.
    """
    measure: Literal["cpus", "gpu_memory"] = "gpu_memory" if gpus else "cpus"
    has = {name: float(gpu_bytes(each)) if gpus else min(each.cpus, cpus) for name, each in machines.items()}
    tiers = sorted(set(has.values()))
    if len(tiers) < 2:
        return ()
    bare = [
        NeedClass(
            name=f"{kind}, up to {format_size(tier) if gpus else f'{tier:g} CPUs'}",
            kind=kind,
            measure=measure,
            up_to=tier,
            machine_types=tuple(sorted(name for name in has if not gpus or has[name] >= tier)),
        )
        for tier in tiers
    ]
    counts = dict.fromkeys((each.name for each in bare), 0)
    for each in measured:
        if (name := class_of(kind, each, bare)) != kind:
            counts[name] += 1
    found = tuple(each.model_copy(update={"evaluations": counts[each.name]}) for each in bare)
    some = [each for each in found if each.evaluations]
    # All on the smallest GPUs, or all alike in CPUs: that is the kind.
    if not some or (len(some) == 1 and (measure == "cpus" or some[0] is found[0])):
        return ()
    return found
