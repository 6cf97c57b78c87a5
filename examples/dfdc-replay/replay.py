"""The Deepfake Detection Challenge's bill, once more: what was said, what was paid, what Referee would have said.

python examples/dfdc-replay/replay.py            # the tables
python examples/dfdc-replay/replay.py --json     # the same as JSON
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from planned import planned
from tables import show
from workload import (
    CPU_SCALES,
    CPU_SERIAL,
    FITS_T4,
    LIMIT_OTHER,
    NEEDS_MORE,
    SIZES,
    Group,
    workload,
)

from referee.planning.assignment import Bounds, Need, Option, assign
from referee.planning.catalogue import HISTORICAL, shipped_catalogue
from referee.planning.interval import Interval, Part, total_law
from referee.planning.pilot import PROBES_OF_A_KIND, allocate
from referee.planning.simulation import Pool, simulate
from referee.planning.spot import best_purchase

Floats = NDArray[np.float64]

CATALOGUE = shipped_catalogue(HISTORICAL)
PRICE = {name: float(offer.price) for name, offer in CATALOGUE.offers.items()}
T4, V100, ARTICLE_CPU = "g4dn.xlarge", "p3.2xlarge", "c4.4xlarge"


@dataclass(frozen=True)
class Cpus:
    """The family of machines without GPUs that Referee rents: one with four vCPUs, one with sixteen."""

    four: str
    sixteen: str


# A core of c5a (AMD EPYC of 2019) is taken to be at least as fast as one of c4 (Intel Haswell of 2014), as c5's is; the
# pilot's probes would measure both. All figures are also given without c5a.
C5A, C5 = Cpus("c5a.xlarge", "c5a.4xlarge"), Cpus("c5.xlarge", "c5.4xlarge")
ARTICLE = {FITS_T4: T4, NEEDS_MORE: V100, CPU_SERIAL: ARTICLE_CPU, CPU_SCALES: ARTICLE_CPU}
WASTE = (0.0, 0.05, 0.10, 0.15)
RATES = (0.0001, 0.01, 0.05, 0.1, 0.3)
SHARES = (0.0, 0.5, 1.0)
CORE_SPEEDS = (0.9, 0.95, 1.0, 1.05, 1.1, 1.2)
PILOT = 84

# Assumptions of the replay that the article does not give; each is small against the bill.
BOOT_HOURS = 120 / 3600  # paid once for each machine that is kept, once for each job where it is not
PULL_HOURS = 180 / 3600  # image and data, once for each evaluation; DFDC's hours hold it already
FIRST_BATCH_HOURS = 180 / 3600  # after which a submission that needs more GPU memory than a T4 has is out of it
RESERVE = 1.25  # on expected hours, for counting boots; the deadlines' table takes it from the pilot
PROBE_HOURS = 0.1  # a few items, for the speed of a submission on a machine type


def first_principles() -> dict[str, float]:
    """The article's two estimates and its bill, from its own quantities."""
    submissions, teams_hours = 4_200, 9.0
    restarts = 42_000 / (submissions * teams_hours)
    first_hours = submissions * teams_hours * restarts
    second_hours = first_hours * 2.1
    return {
        "first_hours": first_hours,
        "restart_factor": restarts,
        "first_usd": first_hours * PRICE[V100],
        "first_usd_each": first_hours * PRICE[V100] / submissions,
        "gpus_for_21_days": float(np.ceil(first_hours / (24 * 21))),
        "gpu_hours_of_85": 85 * 24 * 21.0,
        "second_hours": second_hours,
        "second_usd": second_hours * PRICE[T4],
        "second_usd_each": second_hours * PRICE[T4] / submissions,
        "paid_usd": 25_000 * PRICE[T4] + 5_000 * PRICE[ARTICLE_CPU] + 800 * PRICE[V100],
        "table_as_printed_usd": 90_000 * PRICE[V100] + 25_000 * PRICE[T4],
        "table_mended_usd": 90_000 * PRICE[T4],
    }


def article_usd(groups: dict[str, Group]) -> float:
    """Every submission on the article's machine, restarts included, billed by the second."""
    return sum(
        float(Pool(1, 1.0).bill(group.hours, PRICE[ARTICLE[name]]).sum() + group.restarts.sum() * PRICE[ARTICLE[name]])
        for name, group in groups.items()
    )


@dataclass(frozen=True)
class Levers:
    """What Referee does differently; each can be switched off to see what it is worth."""

    once: bool = True
    right_sizing: bool = True
    smoke: bool = False
    measured_memory: bool = True
    keep_machines: bool = True
    clairvoyant: bool = False
    cpus: Cpus = C5A


def evaluation_usd(name: str, group: Group, levers: Levers) -> Floats:
    """What each submission of a group costs Referee after the pilot, shape (n,); zero for a repeated image."""
    useful, all_hours = group.hours, group.hours + group.restarts
    if name in {FITS_T4, NEEDS_MORE}:
        usd = all_hours * PRICE[T4 if name == FITS_T4 else V100]
        if name == NEEDS_MORE and not levers.clairvoyant:
            # Its need is not known before: it starts on a T4, and its memory is measured at the first batch.
            on_t4 = useful * group.speed * _uniform(name, useful.size)
            tried = np.full(useful.size, FIRST_BATCH_HOURS) if levers.measured_memory else on_t4
            usd = usd + tried * PRICE[T4]
    elif levers.right_sizing:
        # Four vCPUs cost a quarter of sixteen, and take at most four times as long: never dearer, often a quarter.
        usd = all_hours * (4.0 if name == CPU_SCALES else 1.0) * PRICE[levers.cpus.four]
    else:
        usd = all_hours * PRICE[ARTICLE_CPU]
    if not levers.keep_machines:
        usd = usd + BOOT_HOURS * PRICE[ARTICLE[name]]
    if levers.smoke:
        # A few items first, for 3 minutes and a pull of its own; of failures at a uniform share it finds the earliest.
        smoke = FIRST_BATCH_HOURS + PULL_HOURS
        found_early = (group.hours < FIRST_BATCH_HOURS) * usd
        usd = usd + smoke * PRICE[T4 if name in {FITS_T4, NEEDS_MORE} else levers.cpus.four] - found_early
    return np.asarray(usd * group.distinct if levers.once else usd)


def _uniform(name: str, size: int) -> Floats:
    return np.random.default_rng([7, len(name)]).random(size)


def pilot_extra_usd(groups: dict[str, Group], rng: np.random.Generator, cpus: Cpus = C5A) -> float:
    """What the pilot costs beyond the runs that had to be made anyway: its probes.

    Official attempts run where an hour of work is cheapest whatever a submission scales to, so they are those of the
    plan. How it scales, and how fast each type is, is learned from a few items of some of them on every other type, and
    on their own, to compare like with like.
    """
    own, others = _probed_on(cpus)
    usd = 0.0
    for kind, names in {"gpu": (FITS_T4, NEEDS_MORE), "cpu": (CPU_SERIAL, CPU_SCALES)}.items():
        hours = np.concatenate([groups[name].hours[groups[name].distinct] for name in names])
        drawn = np.minimum(rng.choice(hours, PROBES_OF_A_KIND, replace=False), PROBE_HOURS) + PULL_HOURS
        usd += float(drawn.sum()) * sum(PRICE[name] for name in (own[kind], *others[kind]))
    return usd


def _probed_on(cpus: Cpus) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Where a kind's official pilot attempts run, and the other types on which some of them run a few items."""
    others = [each for family in (C5A, C5) for each in (family.four, family.sixteen) if cpus is C5A or family is C5]
    return {"gpu": T4, "cpu": cpus.four}, {
        "gpu": (V100,),
        "cpu": (*(each for each in others if each != cpus.four), ARTICLE_CPU),
    }


def planner_says(groups: dict[str, Group], pilots: int = 50) -> dict[str, object]:
    """What `referee plan` makes of such pilots, told as attempts and probes: where it sends all, and its forecast."""
    bill = referee_usd(groups, Levers(), 0)
    plans = [planned(groups, seed) for seed in range(pilots)]
    sent = {(kind, *sorted(types)) for plan in plans for kind, types in plan.assignment.items()}
    return {
        "sent_to": sorted(" ".join(each) for each in sent),
        "median_usd": [
            float(np.median([float(getattr(plan.cost, end)) for plan in plans])) for end in ("low", "mid", "high")
        ],
        "cover": float(np.mean([float(plan.cost.low) <= bill <= float(plan.cost.high) for plan in plans])),
    }


def core_speeds(groups: dict[str, Group]) -> dict[str, dict[str, float]]:
    """The bill if a core of c5a, or of c5, were so many times as fast as one of c4, at no waste."""
    cpus = sum(float(evaluation_usd(name, groups[name], Levers(cpus=C5A)).sum()) for name in (CPU_SERIAL, CPU_SCALES))
    rest = referee_usd(groups, Levers(cpus=C5A), 0) - cpus
    per_dollar = {"c5a.xlarge": cpus, "c5.xlarge": cpus * PRICE[C5.four] / PRICE[C5A.four]}
    return {name: {f"{s:.2f}": rest + usd / s for s in CORE_SPEEDS} for name, usd in per_dollar.items()}


def machines_for(deadline_hours: float, groups: dict[str, Group], reserve: float, cpus: Cpus = C5A) -> dict[str, int]:
    """Machines of each type for the deadline, with a reserve on the hours and room for the longest at the end."""
    usable = deadline_hours - 48.0 - LIMIT_OTHER
    hours = {T4: groups[FITS_T4], V100: groups[NEEDS_MORE], cpus.four: groups[CPU_SERIAL]}
    wanted = {name: float((g.hours + g.restarts)[g.distinct].sum()) for name, g in hours.items()}
    scaling = groups[CPU_SCALES]
    wanted[cpus.four] += 4 * float((scaling.hours + scaling.restarts)[scaling.distinct].sum())
    # The longest of those that would scale runs four times the limit on four vCPUs.
    usable_cpu = deadline_hours - 48.0 - 4 * LIMIT_OTHER
    return {k: int(np.ceil(v * reserve / (usable_cpu if k == cpus.four else usable))) for k, v in wanted.items()}


def referee_usd(groups: dict[str, Group], levers: Levers, seed: int, deadline_hours: float = 504.0) -> float:
    """What Referee's plan costs on the workload, pilot, boots and first tries included."""
    run = sum(float(evaluation_usd(name, group, levers).sum()) for name, group in groups.items())
    machines = machines_for(deadline_hours, groups, RESERVE, levers.cpus)
    boots = sum(n * BOOT_HOURS * PRICE[name] for name, n in machines.items())
    probes = pilot_extra_usd(groups, np.random.default_rng(seed), levers.cpus)
    return run + probes + (boots if levers.keep_machines else 0.0)


def clairvoyant_usd(groups: dict[str, Group], cpus: Cpus = C5A) -> float:
    """The linear program's bound where every submission's needs and hours are known before: nothing can cost less.

    It may use the same machine types as the plan: with c5a those of c5, too.
    """
    families = (C5A, C5) if cpus is C5A else (C5,)
    fours, sixteens = [each.four for each in families], [*(each.sixteen for each in families), ARTICLE_CPU]
    options = [Option(name, PRICE[name]) for name in (T4, V100, *fours, *sixteens)]
    needs = []
    for name, group in groups.items():
        hours = group.hours + group.restarts
        for place in np.flatnonzero(group.distinct):
            length = float(hours[place])
            fits = {
                FITS_T4: {T4: length, V100: length / float(group.speed[place])},
                NEEDS_MORE: {V100: length},
                CPU_SERIAL: dict.fromkeys((*fours, *sixteens), length),
                CPU_SCALES: dict.fromkeys(fours, 4 * length) | dict.fromkeys(sixteens, length),
            }[name]
            needs.append(Need(f"{name}/{place}", 1, fits))
    return assign(needs, options, Bounds()).bound_usd


def day_two(groups: dict[str, Group], seed: int, confidence: float = 0.9) -> tuple[Interval, Interval]:
    """What Referee says when the pilot has ended: the bill of the article's machines, and that of its own plan."""
    rng = np.random.default_rng(seed)
    strata = {"gpu": (FITS_T4, NEEDS_MORE), "cpu": (CPU_SERIAL, CPU_SCALES)}
    sizes = {kind: sum(SIZES[name] for name in names) for kind, names in strata.items()}
    article, own = [], []
    for kind, names in strata.items():
        chosen = rng.choice(sizes[kind], allocate(sizes, PILOT)[kind], replace=False)
        as_paid = [(g.hours + g.restarts) * PRICE[ARTICLE[n]] for n, g in groups.items() if n in names]
        article.append(_part(np.concatenate(as_paid)[chosen], sizes[kind]))
        once = np.concatenate([groups[name].distinct for name in names])
        planned = np.concatenate([evaluation_usd(name, groups[name], Levers(once=False)) for name in names])
        # Repeated images are known from their digests before anything runs.
        own.append(_part(planned[chosen], int(once.sum())))
    return total_law(article).interval(confidence), total_law(own).interval(confidence)


def _part(usd: Floats, size: int) -> Part:
    variance = float(usd.var(ddof=1))
    return Part(size, 1.0, float(usd.mean()), variance / usd.size, variance, float(((usd - usd.mean()) ** 3).mean()))


def levers_table(groups: dict[str, Group]) -> dict[str, float]:
    """What each lever alone saves against Referee without it, on the same workload; negative: it costs."""
    now = referee_usd(groups, Levers(), 0)
    without = {
        "repeated images are run once": Levers(once=False),
        "CPU jobs get as many vCPUs as they use": Levers(right_sizing=False),
        "GPU memory is measured at the first batch, not found missing in the middle": Levers(measured_memory=False),
        "machines are kept: one boot for each machine, not for each evaluation": Levers(keep_machines=False),
    }
    found = {name: referee_usd(groups, levers, 0) - now for name, levers in without.items()}
    found["a separate smoke run before the full run (so not in the plan)"] = now - referee_usd(
        groups, Levers(smoke=True), 0
    )
    found["the c5a family (a tenth cheaper than c5)"] = referee_usd(groups, Levers(cpus=C5), 0) - now
    found["the pilot's probes"] = -pilot_extra_usd(groups, np.random.default_rng(0))
    return found


def in_time(
    groups: dict[str, Group], deadline_days: int, reserve: float, replicates: int = 200
) -> tuple[dict[str, int], float, Interval]:
    """Machines for a deadline, the share of simulated campaigns that meet it, and when they end, in days."""
    machines = machines_for(24.0 * deadline_days, groups, reserve)
    rng = np.random.default_rng(deadline_days)
    t4, more = groups[FITS_T4], groups[NEEDS_MORE]
    on_t4 = np.concatenate(
        [(t4.hours + t4.restarts)[t4.distinct], np.full(int(more.distinct.sum()), FIRST_BATCH_HOURS)]
    )
    on_cpu = np.concatenate(
        [
            (g.hours + g.restarts)[g.distinct] * (4 if n == CPU_SCALES else 1)
            for n, g in groups.items()
            if n in (CPU_SERIAL, CPU_SCALES)
        ]
    )
    first = _shuffled(rng, on_t4, replicates)
    ran = simulate(Pool(machines[T4], PRICE[T4], BOOT_HOURS), first, trace=True)
    four = Pool(machines[C5A.four], PRICE[C5A.four], BOOT_HOURS)
    cpu = simulate(four, _shuffled(rng, on_cpu, replicates)).end_hours
    hours = (more.hours + more.restarts)[more.distinct]
    ends = np.empty(replicates)
    for row in range(replicates):
        # Those that ran out of memory queue for a V100 from the moment that they did.
        released = np.sort(ran.ends[row][first[row] == FIRST_BATCH_HOURS])
        free = np.zeros(machines[V100])
        for at, length in zip(released, rng.permutation(hours), strict=True):
            machine = int(free.argmin())
            free[machine] = max(free[machine], at) + BOOT_HOURS + length
        ends[row] = max(ran.end_hours[row], cpu[row], free.max())
    # Two days of pilot come first.
    days = ends / 24 + 2
    low, mid, high = (float(x) for x in np.quantile(days, [0.05, 0.5, 0.95]))
    return machines, float((days <= deadline_days).mean()), Interval(low, mid, high, 0.9)


def _shuffled(rng: np.random.Generator, hours: Floats, replicates: int) -> Floats:
    return np.asarray(rng.permuted(np.tile(hours, (replicates, 1)), axis=1))


def spot_usd(groups: dict[str, Group], rate: float, share: float) -> float:
    """The plan where spot capacity is used as far as it saves, at 2021's spot prices."""
    overhead = BOOT_HOURS + PULL_HOURS
    total = 0.0
    for name, group in groups.items():
        hours = (group.hours + group.restarts)[group.distinct]
        ways = {
            FITS_T4: [(T4, 1.0)],
            NEEDS_MORE: [(V100, 1.0)],
            CPU_SERIAL: [(C5A.four, 1.0), (ARTICLE_CPU, 1.0)],
            CPU_SCALES: [(C5A.four, 4.0), (C5A.sixteen, 1.0), (ARTICLE_CPU, 1.0)],
        }[name]
        for part, shards in ((share, (1, 2, 4, 8, 16)), (1 - share, (1,))):
            costs = []
            for machine, factor in ways:
                on_demand = PRICE[machine]
                spot = CATALOGUE.offer(machine).spot_price
                if spot is None:
                    costs.append(float((hours * factor + overhead).mean()) * on_demand)
                else:
                    costs.append(
                        best_purchase(hours * factor, overhead, rate, float(spot), on_demand, shards=shards).usd
                    )
            total += part * hours.size * min(costs)
    return total


def on_demand_with_overhead_usd(groups: dict[str, Group]) -> float:
    """The plan on demand with boot and pull for every evaluation: what the spot table is to be compared with."""
    total = 0.0
    for name, group in groups.items():
        hours = (group.hours + group.restarts)[group.distinct]
        machine, factor = {
            FITS_T4: (T4, 1),
            NEEDS_MORE: (V100, 1),
            CPU_SERIAL: (C5A.four, 1),
            CPU_SCALES: (C5A.sixteen, 1),
        }[name]
        total += float((hours * factor + BOOT_HOURS + PULL_HOURS).sum()) * PRICE[machine]
    return total


def _bills(groups: dict[str, Group], cpus: Cpus) -> dict[str, object]:
    """The plan's bill over a hundred pilots (5%, median, 95%), and the bound with the same machine types."""
    bills = [referee_usd(groups, Levers(cpus=cpus), seed) for seed in range(100)]
    bound = clairvoyant_usd(groups, cpus)
    low, mid, high = (float(x) for x in np.quantile(bills, [0.05, 0.5, 0.95]))
    return {"referee_usd": [low, mid, high], "clairvoyant_usd": bound, "above_bound": high / bound - 1}


def results_of_waste(waste: float) -> dict[str, object]:
    """The bills where a share of all hours was lost: the article's, Referee's, and the bound, with c5a and without."""
    groups = workload(waste)
    avoided = {n: Group(g.hours, g.speed, g.original, np.zeros_like(g.restarts)) for n, g in groups.items()}
    return {
        "article_usd": article_usd(groups),
        **_bills(groups, C5A),
        "without_c5a": _bills(groups, C5),
        "referee_without_restarts_usd": referee_usd(avoided, Levers(), 0),
    }


def results() -> dict[str, object]:
    """All figures of the replay."""
    found: dict[str, object] = {"first_principles": first_principles()}
    found["waste"] = {f"{waste:.2f}": results_of_waste(waste) for waste in WASTE}
    groups = workload()
    article, own = day_two(groups, 1)
    found["day_two"] = {
        "article_usd": [article.low, article.mid, article.high],
        "plan_usd": [own.low, own.mid, own.high],
    }
    hits = [
        (a.low <= article_usd(groups) <= a.high, o.low <= referee_usd(groups, Levers(), 0) <= o.high)
        for a, o in (day_two(groups, seed) for seed in range(1000))
    ]
    found["day_two_cover"] = {
        "article": float(np.mean([a for a, _ in hits])),
        "plan": float(np.mean([o for _, o in hits])),
    }
    found["planner"] = planner_says(groups)
    found["core_speeds_usd"] = core_speeds(groups)
    found["levers_usd"] = levers_table(groups)
    found["deadlines"] = {
        str(days): {"machines": machines, "in_time": share, "end_days": [end.low, end.mid, end.high]}
        for days in (21, 14)
        for machines, share, end in [in_time(groups, days, own.high / own.mid)]
    }
    found["on_demand_with_overhead_usd"] = on_demand_with_overhead_usd(groups)
    found["spot_usd"] = {f"{r:g}": {f"{s:.1f}": spot_usd(groups, r, s) for s in SHARES} for r in RATES}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    found = results()
    if parser.parse_args().json:
        print(json.dumps(found, indent=1))
        return
    show(found)


if __name__ == "__main__":
    main()
