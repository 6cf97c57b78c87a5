"""What Referee's planner makes of the pilot: `replay.py` prices a policy, and this shows that it is the plan's own.

The pilot's attempts and probes are told to the planner in the form in which the ledger would tell them.
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from workload import CPU_SCALES, CPU_SERIAL, FITS_T4, LIMIT_OTHER, LIMIT_V100, NEEDS_MORE, Group

from referee.planning.catalogue import HISTORICAL, shipped_catalogue
from referee.planning.observation import Observation, Requirement, groups_of
from referee.planning.pilot import PROBES_OF_A_KIND, allocate
from referee.planning.plan import Plan
from referee.planning.planner import Wishes, make_plan
from referee.planning.speeds import Probe

GIB = 2**30
KINDS = {"gpu": (FITS_T4, NEEDS_MORE), "cpu": (CPU_SERIAL, CPU_SCALES)}
T4, V100 = "g4dn.xlarge", "p3.2xlarge"
FOURS, SIXTEENS = ("c5a.xlarge", "c5.xlarge"), ("c5a.4xlarge", "c5.4xlarge", "c4.4xlarge")
FIRST_BATCH_HOURS, PROBE_SECONDS, PILOT = 180 / 3600, 360.0, 84


def planned(groups: dict[str, Group], seed: int, days: float = 19.0) -> Plan:
    """The plan for what is left after two days of pilot."""
    everybody = {
        kind: [(name, int(place)) for name in names for place in np.flatnonzero(groups[name].distinct)]
        for kind, names in KINDS.items()
    }
    sizes = {kind: len(members) for kind, members in everybody.items()}
    rng = np.random.default_rng(seed)
    observations: list[Observation] = []
    probes: list[Probe] = []
    for kind, count in allocate(sizes, PILOT).items():
        pilot = [everybody[kind][place] for place in rng.choice(sizes[kind], count, replace=False)]
        for name, place in pilot:
            observations += _attempts(kind, name, place, groups[name])
        valid = [(name, place) for name, place in pilot if name != NEEDS_MORE]
        for name, place in valid[:PROBES_OF_A_KIND]:
            probes += _probes(kind, name, place, float(groups[name].speed[place]))
    found = groups_of(
        observations,
        sizes,
        {"gpu": Requirement(4, 8 * GIB, 1), "cpu": Requirement(4, 8 * GIB)},
        {
            T4: LIMIT_OTHER,
            V100: LIMIT_V100,
            **dict.fromkeys(FOURS, 4 * LIMIT_OTHER),
            **dict.fromkeys(SIXTEENS, LIMIT_OTHER),
        },
        probes,
    )
    catalogue = shipped_catalogue(HISTORICAL).only([T4, V100, *FOURS, *SIXTEENS])
    return make_plan("dfdc", "private_test", found, catalogue, Wishes(timedelta(days=days), confidence=0.9))


def _attempts(kind: str, name: str, place: int, group: Group) -> list[Observation]:
    evaluation, hours = f"{name}/{place}", float((group.hours + group.restarts)[place])
    if name == NEEDS_MORE:
        return [
            Observation(evaluation, kind, T4, FIRST_BATCH_HOURS, final=False, outgrown=True),
            Observation(evaluation, kind, V100, hours, final=True),
        ]
    if kind == "gpu":
        return [Observation(evaluation, kind, T4, hours, final=True)]
    return [Observation(evaluation, kind, FOURS[0], hours * _longer(name), final=True, cpus_used=4.0)]


def _probes(kind: str, name: str, place: int, speed: float) -> list[Probe]:
    if kind == "gpu":
        seconds = {T4: PROBE_SECONDS, V100: PROBE_SECONDS / speed}
    else:
        seconds = dict.fromkeys(FOURS, PROBE_SECONDS * _longer(name)) | dict.fromkeys(SIXTEENS, PROBE_SECONDS)
    return [Probe(f"{name}/{place}", kind, machine, each) for machine, each in seconds.items()]


def _longer(name: str) -> float:
    """How many times longer on four vCPUs than on sixteen."""
    return 4.0 if name == CPU_SCALES else 1.0
