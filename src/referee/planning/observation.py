"""From what the ledger knows of attempts to what the planner learns from: one runtime for each evaluation.

An evaluation that needed several attempts counts with the hours of all of them, because all are paid. The ledger is not
read here: whoever reads it makes an `Observation` of each attempt that has started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from referee.planning.planner import Group
from referee.planning.runtime import Runtimes

# Fewer say little of the upper end.
_LEAST_MEASURED = 10


@dataclass(frozen=True, slots=True)
class Observation:
    """An attempt that was started.

    Attributes:
        evaluation: whose attempt it is.
        kind: the stratum, such as `cpu` or `gpu`.
        machine_type: where it runs or ran.
        hours: start-up and run, so far.
        final: whether the evaluation has ended with it, for good.
        cpus_used: mean number of CPUs that it kept busy; 0 where not known.
        peak_memory_bytes, peak_gpu_memory_bytes: as measured; 0 where not known.
    """

    evaluation: str
    kind: str
    machine_type: str
    hours: float
    final: bool
    cpus_used: float = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the challenge's limits grant to each evaluation of a kind, and so what a machine must have."""

    cpus: float
    memory_bytes: int
    gpus: int = 0
    gpu_memory_bytes: int = 0


def right_sized(granted: Requirement, observations: Iterable[Observation], kind: str) -> Requirement:
    """What evaluations of a kind use, where it is less than what is granted: CPUs, at the upper 95% of those measured.

    Memory is not cut: an evaluation that gets too little fails, one that gets too few CPUs takes longer.
    """
    used = [each.cpus_used for each in observations if each.kind == kind and each.final and each.cpus_used > 0]
    if len(used) < _LEAST_MEASURED:
        return granted
    return replace(granted, cpus=min(granted.cpus, float(np.ceil(np.quantile(used, 0.95)))))


def groups_of(
    observations: Iterable[Observation],
    sizes: Mapping[str, int],
    requirements: Mapping[str, Requirement],
    limit_hours: Mapping[str, float],
) -> list[Group]:
    """The planner's groups, one for each kind.

    Args:
        observations: of all attempts that were started.
        sizes: evaluations of each kind, started or not.
        requirements: by kind.
        limit_hours: the wall time limit by machine type, scaled as it is applied there, with start-up.
    """
    by_evaluation: dict[str, list[Observation]] = {}
    for observation in observations:
        by_evaluation.setdefault(observation.evaluation, []).append(observation)
    groups = []
    for kind, size in sizes.items():
        mine = [tries for tries in by_evaluation.values() if tries[-1].kind == kind]
        need = requirements[kind]
        groups.append(
            Group(
                kind,
                size,
                need.cpus,
                need.memory_bytes,
                need.gpus,
                need.gpu_memory_bytes,
                {name: _runtimes(mine, name, limit_hours[name]) for name in sorted({t[-1].machine_type for t in mine})},
            )
        )
    return groups


def _runtimes(evaluations: Sequence[Sequence[Observation]], machine_type: str, limit_hours: float) -> Runtimes:
    here = [tries for tries in evaluations if tries[-1].machine_type == machine_type]
    hours = np.array([sum(attempt.hours for attempt in tries) for tries in here])
    ended = np.array([tries[-1].final for tries in here], dtype=np.bool_)
    # Repeated attempts may take longer than the limit of one.
    return Runtimes(hours, ended, max(limit_hours, float(hours[ended].max(initial=0.0))))
