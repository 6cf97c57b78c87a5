"""A plan run in the kernel many times over, as it may come: what `referee simulate` shows before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from referee.challenge import SPOT
from referee.planning.catalogue import Catalogue
from referee.planning.forecast import Stratum, waiting_hours
from referee.planning.groups import Group, spent_usd
from referee.planning.interval import Interval
from referee.planning.plan import Plan, PoolPlan
from referee.planning.runtime import product_limit
from referee.planning.simulation import Outcome, Pool, draw_fates, simulate
from referee.planning.spot import MOST_TRIES, LossRate
from referee.planning.strata import strata_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What happened in the replicates.

    Attributes:
        end_hours: from now; `usd`: of the whole, with what was spent before; both with the plan's confidence.
        in_time, in_budget: shares of the replicates; None where nothing was asked for.
        losses: mean number of spot machines taken away.
        fleet: points (hours from now, mean number of machines on tries that get through), for a picture.
    """

    end_hours: Interval
    usd: Interval
    in_time: float | None
    in_budget: float | None
    losses: float
    fleet: tuple[tuple[float, float], ...]


def rehearse(
    plan: Plan,
    groups: Sequence[Group],
    catalogue: Catalogue,
    *,
    replicates: int = 1000,
    seed: int = 0,
    overhead_hours: float = 0.0,
    aside_usd: float = 0.0,
    losses: LossRate | None = None,
    zone_share: float = 0.5,
    zones: int = 3,
) -> Rehearsal:
    """Run what the plan has still to do, in as many replicates.

    Args:
        plan: made from the same groups and catalogue.
        groups: what was seen.
        catalogue: for boot times and billing.
        replicates: how often.
        seed: of all draws.
        overhead_hours: pull and staging of an evaluation.
        aside_usd: what was spent on probes.
        losses: of spot machines, by default as the plan believes; drawn anew for each tenth of the replicates, as it is
            uncertain.
        zone_share, zones: how many of the losses take a whole zone, and of how many zones.
    """
    rng = np.random.default_rng(seed)
    if losses is None and plan.spot_losses is not None:
        losses = LossRate(plan.spot_losses.losses, plan.spot_losses.hours)
    strata = strata_of(groups, catalogue, plan.assignment, overhead_hours)
    usd = np.full(replicates, spent_usd(groups, catalogue) + aside_usd)
    ends, lost = np.zeros(replicates), np.zeros(replicates)
    traces: list[Outcome] = []
    for planned in plan.pools:
        name = planned.machine_type + (SPOT if planned.market == "spot" else "")
        queue = _queue([s for s in strata if s.pool == name], rng, replicates)
        if not queue.shape[1]:
            continue
        pool = _pool(planned, catalogue, zone_share, zones)
        ran = _run(pool, queue, rng, losses)
        traces.append(ran)
        usd, ends, lost = usd + ran.usd, np.maximum(ends, ran.end_hours), lost + ran.losses
    return Rehearsal(
        _interval(ends, plan.confidence),
        _interval(usd, plan.confidence),
        float((ends <= plan.deadline_hours).mean()) if plan.deadline_hours is not None else None,
        float((usd <= float(plan.budget)).mean()) if plan.budget is not None else None,
        float(lost.mean()),
        _fleet(traces, float(ends.max())),
    )


def _queue(strata: Sequence[Stratum], rng: np.random.Generator, replicates: int) -> Floats:
    waits = [waiting_hours(s, product_limit(s.seen), rng, replicates) for s in strata if s.waiting]
    if not waits:
        return np.zeros((replicates, 0))
    return np.asarray(rng.permuted(np.concatenate(waits, axis=1), axis=1))


def _pool(planned: PoolPlan, catalogue: Catalogue, zone_share: float, zones: int) -> Pool:
    offer = catalogue.offer(planned.machine_type)
    return Pool(
        machines=max(planned.machines, 1),
        usd_per_hour=float(offer.price),
        boot_hours=offer.boot_hours,
        spot_usd_per_hour=float(planned.usd_per_hour) if planned.market == "spot" else None,
        zone_share=zone_share,
        zones=zones,
        spot_tries=MOST_TRIES,
        first_hour_free=offer.interrupted_hour_free,
        billing_granularity_hours=offer.billing_granularity.total_seconds() / 3600,
        billing_minimum_hours=offer.billing_minimum.total_seconds() / 3600 if offer.billing_minimum else 0.0,
    )


def _run(pool: Pool, queue: Floats, rng: np.random.Generator, losses: LossRate | None) -> Outcome:
    if pool.spot_usd_per_hour is None or losses is None:
        return simulate(pool, queue, trace=True)
    parts = []
    for rate, part in zip(losses.points(10), np.array_split(queue, 10), strict=True):
        if part.shape[0]:
            here = replace(pool, losses_per_hour=float(rate))
            horizon = 3 * float(part.sum(axis=1).max()) / pool.machines + 100.0
            parts.append(simulate(here, part, draw_fates(rng, here, part.shape[0], part.shape[1], horizon)))
    return Outcome(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Outcome.__slots__})


def _interval(draws: Floats, confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2
    low, mid, high = (float(x) for x in np.quantile(draws, [tail, 0.5, 1.0 - tail]))
    return Interval(low, mid, high, confidence)


def _fleet(traces: Sequence[Outcome], until: float, points: int = 60) -> tuple[tuple[float, float], ...]:
    """Mean number of evaluations that run at each of some moments, in the try that gets through."""
    if not traces:
        return ()
    moments = np.linspace(0.0, until, points)
    running = np.zeros(points)
    for ran in traces:
        started = np.searchsorted(np.sort(ran.starts, axis=None), moments, side="right")
        ended = np.searchsorted(np.sort(ran.ends, axis=None), moments, side="right")
        running += (started - ended) / ran.starts.shape[0]
    return tuple((float(hours), float(number)) for hours, number in zip(moments, running, strict=True))


def with_machines(plan: Plan, machines: Mapping[str, int]) -> Plan:
    """The same plan with other numbers of machines, to see what they would change."""
    pools = tuple(
        pool.model_copy(update={"machines": machines.get(pool.machine_type, pool.machines)}) for pool in plan.pools
    )
    return plan.model_copy(update={"pools": pools})
