"""The campaign as arrays over replicates: boot, pull, run, loss of spot machines by zone, fallback, scale-in, the bill.

One pool of equal machines takes evaluations from one queue; the machine that is free first takes the next. All that is
random is drawn before (`draw_fates`), so that another model of the same campaign can be run on the same draws and must
give the same trace. Shapes: R replicates, N evaluations, M machines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# So many replicates at a time that the machines' clocks stay in the processor's cache.
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal machines that share a queue.

    Attributes:
        machines: how many run side by side.
        usd_per_hour: on demand.
        boot_hours: from the request until the first evaluation can start; paid.
        spot_usd_per_hour: price of spot capacity; None: all on demand.
        losses_per_hour: rate at which one spot machine is taken away.
        zone_share: share of the losses that take all machines of a zone at once.
        zones: machine m stands in zone m modulo this.
        spot_tries: losses of one evaluation after which it runs on demand.
        first_hour_free: a machine taken away within its first hour is not billed (EC2's rule).
        billing_granularity_hours, billing_minimum_hours: how up-time becomes a bill.
    """

    machines: int
    usd_per_hour: float
    boot_hours: float = 0.0
    spot_usd_per_hour: float | None = None
    losses_per_hour: float = 0.0
    zone_share: float = 0.0
    zones: int = 1
    spot_tries: int = 3
    first_hour_free: bool = False
    billing_granularity_hours: float = 1 / 3600
    billing_minimum_hours: float = 60 / 3600

    def bill(self, up_hours: Floats, usd_per_hour: float) -> Floats:
        """US dollars for machines that were up for these times."""
        step = self.billing_granularity_hours
        hours = np.ceil(up_hours / step - 1e-9) * step
        return np.where(up_hours > 0, np.maximum(hours, self.billing_minimum_hours), 0.0) * usd_per_hour


@dataclass(frozen=True, slots=True)
class Fates:
    """When spot machines are taken away, drawn before.

    Attributes:
        waits: shape (R, N, k): hours on spot until the machine of the evaluation's k-th try is taken away alone.
        shocks: shape (R, zones, s), increasing, the last one infinite: when all of a zone is taken away.
    """

    waits: Floats
    shocks: Floats


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in each replicate.

    Attributes:
        end_hours: shape (R,): when the last evaluation ended.
        usd: shape (R,): the bill.
        machine_hours: shape (R,): up-time of all machines.
        losses: shape (R,): machines taken away during an evaluation.
        starts, ends, machines: shape (R, N): start of the last try, end and machine of each evaluation.
    """

    end_hours: Floats
    usd: Floats
    machine_hours: Floats
    losses: Integers
    starts: Floats
    ends: Floats
    machines: Integers


def list_schedule(hours: Floats, free: Floats) -> Floats:
    """When each machine is free again, shape (R, M): the queue `hours`, (R, N), on machines free at `free`, (R, M)."""
    return _list_schedule(hours, free)[0]


def _list_schedule(hours: Floats, free: Floats, trace: bool = False) -> tuple[Floats, Floats, Integers]:
    replicates, count = hours.shape
    result = np.array(free, dtype=np.float64)
    ends = np.empty(hours.shape if trace else (0, 0))
    taken = np.empty(hours.shape if trace else (0, 0), dtype=np.int64)
    for first in range(0, replicates, _CHUNK):
        block = slice(first, min(first + _CHUNK, replicates))
        clocks = np.ascontiguousarray(result[block])
        flat, row = clocks.reshape(-1), np.arange(clocks.shape[0]) * clocks.shape[1]
        queue = np.ascontiguousarray(hours[block].T)
        for place in range(count):
            machine = clocks.argmin(axis=1)
            spot = machine + row
            flat[spot] += queue[place]
            if trace:
                ends[block, place], taken[block, place] = flat[spot], machine
        result[block] = clocks
    return result, ends, taken


def draw_fates(rng: np.random.Generator, pool: Pool, replicates: int, evaluations: int, horizon_hours: float) -> Fates:
    """Losses of spot machines for `simulate`; shocks are drawn up to about `horizon_hours`."""
    alone = pool.losses_per_hour * (1 - pool.zone_share)
    shape = (replicates, evaluations, max(pool.spot_tries, 1))
    waits = rng.exponential(1 / alone, shape) if alone > 0 else np.full(shape, np.inf)
    shared = pool.losses_per_hour * pool.zone_share
    last = np.full((replicates, pool.zones, 1), np.inf)
    if shared <= 0:
        return Fates(waits, last)
    number = int(horizon_hours * shared + 6 * (horizon_hours * shared) ** 0.5 + 10)
    shocks = rng.exponential(1 / shared, (replicates, pool.zones, number)).cumsum(axis=2)
    return Fates(waits, np.concatenate([shocks, last], axis=2))


def simulate(pool: Pool, hours: Floats, fates: Fates | None = None, *, trace: bool = False) -> Outcome:
    """Run every replicate's queue on the pool.

    Args:
        pool: the machines.
        hours: shape (R, N): what each evaluation takes in the order of the queue, pull and staging included.
        fates: losses, for a pool with spot capacity.
        trace: keep start, end and machine of every evaluation.
    """
    if pool.spot_usd_per_hour is None or fates is None:
        return _on_demand(pool, hours, trace)
    parts = []
    for first in range(0, hours.shape[0], _CHUNK):
        block = slice(first, min(first + _CHUNK, hours.shape[0]))
        parts.append(_Spot(pool, hours[block], Fates(fates.waits[block], fates.shocks[block])).run())
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in Outcome.__slots__}
    return Outcome(**joined)


def _on_demand(pool: Pool, hours: Floats, trace: bool) -> Outcome:
    replicates, count = hours.shape
    used = min(pool.machines, count)
    free, ends, taken = _list_schedule(hours, np.full((replicates, used), pool.boot_hours), trace)
    return Outcome(
        end_hours=free.max(axis=1),
        usd=pool.bill(free, pool.usd_per_hour).sum(axis=1),
        machine_hours=free.sum(axis=1),
        losses=np.zeros(replicates, dtype=np.int64),
        starts=ends - hours if trace else ends,
        ends=ends,
        machines=taken,
    )


class _Spot:
    """One chunk of replicates on spot capacity: a step of the queue at a time, all replicates together."""

    def __init__(self, pool: Pool, hours: Floats, fates: Fates) -> None:
        self.pool, self.hours, self.fates = pool, hours, fates
        replicates, count = hours.shape
        used = min(pool.machines, count)
        self.free = np.zeros((replicates, used))
        self.up_since = np.zeros((replicates, used))
        self.fresh = np.ones((replicates, used), dtype=np.bool_)
        self.usd, self.machine_hours = np.zeros(replicates), np.zeros(replicates)
        self.losses = np.zeros(replicates, dtype=np.int64)
        self.starts, self.ends = np.empty(hours.shape), np.empty(hours.shape)
        self.machines = np.empty(hours.shape, dtype=np.int64)

    def run(self) -> Outcome:
        for place in range(self.hours.shape[1]):
            self._step(place)
        up = np.where(self.fresh, 0.0, self.free - self.up_since)
        self.usd += self.pool.bill(up, self.pool.spot_usd_per_hour or 0.0).sum(axis=1)
        return Outcome(
            self.ends.max(axis=1),
            self.usd,
            self.machine_hours + up.sum(axis=1),
            self.losses,
            self.starts,
            self.ends,
            self.machines,
        )

    def _step(self, place: int) -> None:
        rows = np.arange(self.free.shape[0])
        machine = self.free.argmin(axis=1)
        self.machines[:, place] = machine
        for attempt in range(self.pool.spot_tries):
            began = self.free[rows, machine]
            fresh = self.fresh[rows, machine]
            self.up_since[rows, machine] = np.where(fresh, began, self.up_since[rows, machine])
            ready = began + np.where(fresh, self.pool.boot_hours, 0.0)
            done = ready + self.hours[rows, place]
            lost_at = np.minimum(began + self.fates.waits[rows, place, attempt], self._next_shock(rows, machine, began))
            lost = lost_at < done
            self.free[rows, machine] = np.where(lost, lost_at, done)
            self.fresh[rows, machine] = lost
            kept = ~lost
            self.starts[rows[kept], place], self.ends[rows[kept], place] = ready[kept], done[kept]
            rows, machine = rows[lost], machine[lost]
            if not rows.size:
                return
            self._bill_loss(rows, lost_at[lost] - self.up_since[rows, machine])
        # Too often lost: this one runs on demand, and the slot asks for spot capacity again afterwards.
        ready = self.free[rows, machine] + self.pool.boot_hours
        done = ready + self.hours[rows, place]
        self.usd[rows] += self.pool.bill(done - self.free[rows, machine], self.pool.usd_per_hour)
        self.machine_hours[rows] += done - self.free[rows, machine]
        self.starts[rows, place], self.ends[rows, place] = ready, done
        self.free[rows, machine] = done

    def _bill_loss(self, rows: Integers, up: Floats) -> None:
        self.losses[rows] += 1
        self.machine_hours[rows] += up
        free = self.pool.first_hour_free & (up < 1.0)
        self.usd[rows] += np.where(free, 0.0, self.pool.bill(up, self.pool.spot_usd_per_hour or 0.0))

    def _next_shock(self, rows: Integers, machine: Integers, after: Floats) -> Floats:
        if self.fates.shocks.shape[2] == 1:
            return np.full(rows.shape, np.inf)
        shocks = self.fates.shocks[rows, machine % self.pool.zones]
        past = (shocks <= after[:, None]).sum(axis=1)
        return np.asarray(shocks[np.arange(rows.size), past])
