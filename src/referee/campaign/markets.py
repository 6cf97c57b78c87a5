"""Which markets are open to an evaluation's next attempt: spot capacity, as long as plan and history allow it.

Pure. A plan reckons with few tries on spot capacity and then one on demand (`planning.spot`); this is what makes it so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from referee.challenge import SPOT, MachineType
from referee.policy import TABLE, Ending, Outcome, ending

# The last of the attempts that a host may fail is on demand: there nobody takes the machine away.
SPOT_TRIES = TABLE[Ending.HOST].cap - 1


def open_markets(
    machines: Mapping[str, MachineType],
    among: Collection[str] | None,
    history: Sequence[Outcome],
    ordered: Collection[str],
) -> tuple[Mapping[str, MachineType], Collection[str] | None]:
    """The machine types, and those of the plan, in the markets that are open to the next attempt.

    Spot capacity is open where the plan has some, until the host has failed `SPOT_TRIES` attempts on it; then the same
    types on demand take their place.

    Args:
        machines: the machine types that the engine has now.
        among: the machine types that the plan has for it; None: any.
        history: its attempts that have ended.
        ordered: all machine types that the plan names.
    """
    failed = sum(each.machine_type.endswith(SPOT) and ending(each) is Ending.HOST for each in history)
    if failed < SPOT_TRIES and any(name.endswith(SPOT) for name in ordered):
        return machines, among
    on_demand = {name: machine for name, machine in machines.items() if not name.endswith(SPOT)}
    return on_demand, None if among is None else {name.removesuffix(SPOT) for name in among}
