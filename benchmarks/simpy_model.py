"""The kernel's model once more, written plainly in SimPy: an oracle for its events and the measure of its speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from referee.planning.simulation import Fates, Floats, Pool


@dataclass
class Trace:
    """What happened to each evaluation: start of its last try, end, machine; and the bill."""

    starts: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    machines: dict[int, int] = field(default_factory=dict)
    usd: float = 0.0
    losses: int = 0


def run(pool: Pool, hours: Floats, fates: Fates | None = None, replicate: int = 0) -> Trace:
    """One replicate: a process for each machine, `hours` of shape (N,)."""
    env, trace, queue = simpy.Environment(), Trace(), deque(enumerate(hours.tolist()))
    model = _spot if pool.spot_usd_per_hour is not None and fates is not None else _on_demand
    for machine in range(pool.machines):
        env.process(model(env, pool, machine, queue, trace, fates, replicate))
    env.run()
    return trace


def run_plainly(pool: Pool, hours: Floats) -> float:
    """The same on demand as SimPy's guide would have it: a process for each evaluation, machines as a resource.

    Returns:
        When the last one ended, in hours.
    """
    env = simpy.Environment()
    machines = simpy.Resource(env, pool.machines)

    def evaluation(length: float) -> Generator[Any, Any, None]:
        yield env.timeout(pool.boot_hours)
        with machines.request() as mine:
            yield mine
            yield env.timeout(length)

    for length in hours.tolist():
        env.process(evaluation(length))
    env.run()
    return float(env.now)


def _bill(pool: Pool, up: float, usd_per_hour: float) -> float:
    return float(pool.bill(np.array([up]), usd_per_hour)[0])


def _on_demand(
    env: simpy.Environment, pool: Pool, machine: int, queue: deque[tuple[int, float]], trace: Trace, *_: object
) -> Generator[Any, Any, None]:
    yield env.timeout(pool.boot_hours)
    while queue:
        place, hours = queue.popleft()
        trace.starts[place], trace.machines[place] = env.now, machine
        yield env.timeout(hours)
        trace.ends[place] = env.now
    trace.usd += _bill(pool, env.now, pool.usd_per_hour)


def _spot(
    env: simpy.Environment,
    pool: Pool,
    machine: int,
    queue: deque[tuple[int, float]],
    trace: Trace,
    fates: Fates,
    replicate: int,
) -> Generator[Any, Any, None]:
    shocks = fates.shocks[replicate, machine % pool.zones]
    up_since: float | None = None
    price = pool.spot_usd_per_hour or 0.0
    while queue:
        place, hours = queue.popleft()
        trace.machines[place] = machine
        for attempt in range(pool.spot_tries):
            began = env.now
            boots = up_since is None
            up_since = began if up_since is None else up_since
            lost_at = min(
                began + float(fates.waits[replicate, place, attempt]),
                float(shocks[np.searchsorted(shocks, began, side="right")]),
            )
            ready = began + (pool.boot_hours if boots else 0.0)
            if lost_at < ready + hours:
                yield env.timeout(lost_at - began)
                trace.losses += 1
                up = lost_at - up_since
                trace.usd += 0.0 if pool.first_hour_free and up < 1.0 else _bill(pool, up, price)
                up_since = None
                continue
            yield env.timeout(ready + hours - began)
            trace.starts[place], trace.ends[place] = ready, env.now
            break
        else:
            began = env.now
            yield env.timeout(pool.boot_hours + hours)
            trace.usd += _bill(pool, env.now - began, pool.usd_per_hour)
            trace.starts[place], trace.ends[place] = began + pool.boot_hours, env.now
    if up_since is not None:
        trace.usd += _bill(pool, env.now - up_since, price)
