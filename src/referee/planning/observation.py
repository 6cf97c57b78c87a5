"""From what the ledger knows of attempts to what the planner learns from: one runtime for each evaluation.

An evaluation that needed several attempts counts with the hours of all of them, because all are paid. The ledger is not
read here: whoever reads it makes an `Observation` of each attempt that has started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from referee.planning.groups import Group
from referee.planning.runtime import Runtimes
from referee.planning.speeds import Probe, speeds


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
        outgrown: whether it ended as the machine type had too little GPU memory.
    """

    evaluation: str
    kind: str
    machine_type: str
    hours: float
    final: bool
    cpus_used: float = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    outgrown: bool = False


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the challenge's limits grant to each evaluation of a kind, and so what a machine must have."""

    cpus: float
    memory_bytes: int
    gpus: int = 0
    gpu_memory_bytes: int = 0


def groups_of(
    observations: Iterable[Observation],
    sizes: Mapping[str, int],
    requirements: Mapping[str, Requirement],
    limit_hours: Mapping[str, float],
    probes: Sequence[Probe] = (),
) -> list[Group]:
    """The planner's groups, one for each kind.

    Args:
        observations: of all attempts that were started.
        sizes: evaluations of each kind, started or not.
        requirements: by kind.
        limit_hours: the wall time limit by machine type, scaled as it is applied there, with start-up.
        probes: a few items of some submissions on several machine types.
    """
    by_evaluation: dict[str, list[Observation]] = {}
    for observation in observations:
        by_evaluation.setdefault(observation.evaluation, []).append(observation)
    groups = []
    for kind, size in sizes.items():
        mine = [tries for tries in by_evaluation.values() if tries[-1].kind == kind]
        need = requirements[kind]
        on = {
            name: [tries for tries in mine if tries[-1].machine_type == name]
            for name in sorted({tries[-1].machine_type for tries in mine})
        }
        groups.append(
            Group(
                kind,
                size,
                need.cpus,
                need.memory_bytes,
                need.gpus,
                need.gpu_memory_bytes,
                {name: _runtimes(here, limit_hours[name]) for name, here in on.items()},
                {name: tuple(tries[-1].evaluation for tries in here) for name, here in on.items()},
                {name: np.array([tries[-1].cpus_used for tries in here]) for name, here in on.items()},
                speeds(probes, kind),
                frozenset(tries[-1].evaluation for tries in mine if any(attempt.outgrown for attempt in tries[:-1])),
            )
        )
    return groups


def _runtimes(here: Sequence[Sequence[Observation]], limit_hours: float) -> Runtimes:
    hours = np.array([sum(attempt.hours for attempt in tries) for tries in here])
    ended = np.array([tries[-1].final for tries in here], dtype=np.bool_)
    # Repeated attempts may take longer than the limit of one.
    return Runtimes(hours, ended, max(limit_hours, float(hours[ended].max(initial=0.0))))
