"""Evaluations to machine types at least expected cost, under deadline, budget, quotas and memory fit.

Evaluations that need the same are one `Need` with a count. What one may run on is an `Option`; the hours that a need
takes on it make it dear or cheap, and fill its quota. A linear program gives the bound; as only few constraints couple
the needs, only few evaluations are split in its solution, and a small integer program over these gives the plan.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from referee.errors import ConfigurationError
from referee.units import format_duration

Floats = NDArray[np.float64]
LITTLE = " would change the cost by less than 0.5%."
_EXACT_UP_TO = 100
_REPAIRED_WITH = 40
# A plan that is a little dearer now is better than the best one in an hour; the gap is shown.
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Need:
    """Evaluations that need the same: how many, and the machine hours of one on each option that it fits.

    An option that is not in `hours` does not fit (too little memory, no GPU). `usd` overrides hours times price, for
    spot capacity whose expected cost is not linear in the hours.
    """

    name: str
    count: int
    hours: Mapping[str, float]
    usd: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A machine type in one market (on demand or spot).

    Attributes:
        usd_per_hour: expected price.
        quota_pool: quotas are counted for this; None: not limited.
        vcpus: what one machine takes from its quota pool.
        machines: at most so many, for own machines.
        boot_hours: paid once for each machine.
    """

    name: str
    usd_per_hour: float
    quota_pool: str | None = None
    vcpus: float = 1.0
    machines: int | None = None
    boot_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the plan must keep.

    Attributes:
        deadline_hours: from now; None: none.
        reserve: the factor on expected hours that buys the confidence asked for (1: even odds).
        tail_hours: at the end, when machines run empty one after another; not usable for filling.
        budget_usd: None: none.
        quotas: vCPUs at the same time for each quota pool.
    """

    deadline_hours: float | None = None
    reserve: float = 1.0
    tail_hours: float = 0.0
    budget_usd: float | None = None
    quotas: Mapping[str, float] | None = None

    @property
    def usable_hours(self) -> float | None:
        """Hours of one machine that may be planned with expected runtimes."""
        if self.deadline_hours is None:
            return None
        return max(self.deadline_hours - self.tail_hours, 0.0) / self.reserve


@dataclass(frozen=True, slots=True)
class Assignment:
    """How many evaluations of each need go to each option.

    Attributes:
        counts: by need and option.
        usd: expected cost without boots.
        bound_usd: no assignment costs less (linear program with the same coefficients and reserve).
        hours: expected machine hours by option.
        exact: whether the integer program was solved as a whole.
    """

    counts: Mapping[tuple[str, str], int]
    usd: float
    bound_usd: float
    hours: Mapping[str, float]
    exact: bool

    @property
    def gap(self) -> float:
        """How far the plan may be from the best one, as a share."""
        return self.usd / self.bound_usd - 1.0 if self.bound_usd > 0 else 0.0

    def machines(self, bounds: Bounds) -> dict[str, int]:
        """Machines of each option that do it within the usable time; one each where there is no deadline."""
        usable = bounds.usable_hours
        return {
            name: max(int(np.ceil(hours / usable - 1e-9)), 1) if usable else 1
            for name, hours in self.hours.items()
            if hours > 0
        }


class NoPlanError(ConfigurationError):
    """Nothing keeps all of deadline, budget and quotas."""


@dataclass(frozen=True, slots=True)
class _Program:
    """The coefficients of the linear program; a column for each pair of need and fitting option."""

    pairs: list[tuple[int, int]]
    usd: Floats
    rows: sparse.csr_array
    limits: Floats
    needs: sparse.csr_array
    counts: Floats


def assign(needs: Sequence[Need], options: Sequence[Option], bounds: Bounds) -> Assignment:
    """The assignment of least expected cost.

    Raises:
        ConfigurationError: if a need fits no option.
        NoPlanError: if deadline, budget and quotas cannot all be kept; the sentence says which one stands in the way.
    """
    program = _program(needs, options, bounds)
    relaxed = _solve(program, integer=False)
    if relaxed is None:
        raise _obstacle(needs, options, bounds)
    total = float(program.counts.sum())
    exact = total <= _EXACT_UP_TO
    chosen = _solve(program, integer=True) if exact else _rounded(program, relaxed)
    if chosen is None:
        raise NoPlanError(
            "Whole evaluations do not fit where parts of them would: the bounds are too tight.",
            hint="Give it a little more time, money or quota.",
        )
    return _assignment(needs, options, program, chosen, float(program.usd @ relaxed), exact)


def _program(needs: Sequence[Need], options: Sequence[Option], bounds: Bounds) -> _Program:
    place = {option.name: index for index, option in enumerate(options)}
    pairs = [(i, place[name]) for i, need in enumerate(needs) for name in need.hours if name in place]
    for index in set(range(len(needs))) - {i for i, _ in pairs}:
        raise ConfigurationError(
            f"No machine type fits {needs[index].name}.", hint="Add one with more memory or GPUs under [machines.*]."
        )
    usd = np.array([_usd(needs[i], options[j]) for i, j in pairs])
    hours = np.array([needs[i].hours[options[j].name] for i, j in pairs])
    rows, limits = [], []
    usable = bounds.usable_hours
    for j, option in enumerate(options):
        if usable is not None and option.machines is not None:
            rows.append(np.where([pair[1] == j for pair in pairs], hours, 0.0))
            limits.append(option.machines * usable)
    for pool, vcpus in (bounds.quotas or {}).items():
        if usable is not None:
            of_pool = np.array([options[j].vcpus if options[j].quota_pool == pool else 0.0 for _, j in pairs])
            rows.append(of_pool * hours)
            limits.append(vcpus * usable)
    if bounds.budget_usd is not None:
        rows.append(usd)
        limits.append(bounds.budget_usd)
    column = np.arange(len(pairs))
    needed = sparse.csr_array((np.ones(len(pairs)), (np.array([i for i, _ in pairs]), column)))
    return _Program(
        pairs,
        usd,
        sparse.csr_array(np.array(rows).reshape(len(rows), len(pairs))),
        np.array(limits),
        needed,
        np.array([need.count for need in needs], dtype=np.float64),
    )


def _usd(need: Need, option: Option) -> float:
    if need.usd is not None and option.name in need.usd:
        return need.usd[option.name]
    return need.hours[option.name] * option.usd_per_hour


def _solve(program: _Program, *, integer: bool) -> Floats | None:
    constraints = [optimize.LinearConstraint(program.needs, program.counts, program.counts)]
    if program.limits.size:
        constraints.append(optimize.LinearConstraint(program.rows, -np.inf, program.limits))
    with _quiet():
        found = optimize.milp(
            program.usd,
            constraints=constraints,
            integrality=np.full(program.usd.size, int(integer)),
            bounds=optimize.Bounds(0, program.needs.T @ program.counts),
            options={"time_limit": _SECONDS, "mip_rel_gap": 1e-5},
        )
    return None if found.x is None else np.asarray(found.x)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS writes a line to standard output when it repairs a solution, whatever is asked for; JSON may go there."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _rounded(program: _Program, relaxed: Floats) -> Floats | None:
    """Whole evaluations from the relaxed solution.

    Those that the relaxed solution splits are placed anew, exactly, and with them those that it would nearly as well
    have placed elsewhere; the others stay.
    """
    needs_of = np.array([i for i, _ in program.pairs])
    whole = np.floor(relaxed + 1e-7)
    undecided = _nearly_elsewhere(program, needs_of)
    for placed_anew in (_REPAIRED_WITH, 4 * _REPAIRED_WITH):
        kept = whole.copy()
        kept[np.isin(needs_of, undecided[:placed_anew])] = 0.0
        left = program.counts - program.needs @ kept
        open_pairs = np.flatnonzero(left[needs_of] > 0.5)
        if not open_pairs.size:
            return kept
        open_needs = np.unique(needs_of[open_pairs])
        small = _Program(
            [program.pairs[p] for p in open_pairs],
            program.usd[open_pairs],
            sparse.csr_array(program.rows[:, open_pairs]) if program.limits.size else program.rows,
            program.limits - program.rows @ kept if program.limits.size else program.limits,
            sparse.csr_array(program.needs[open_needs][:, open_pairs]),
            left[open_needs],
        )
        placed = _solve(small, integer=True)
        if placed is not None:
            kept[open_pairs] += np.round(placed)
            return kept
    return None


def _nearly_elsewhere(program: _Program, needs_of: NDArray[np.int_]) -> NDArray[np.int_]:
    """Needs in the order of what it costs to place them elsewhere, at the relaxed solution's prices of scarcity."""
    if not program.limits.size:
        return np.zeros(0, dtype=np.int_)
    linprog: Any = optimize.linprog  # its stubs know no sparse matrices
    solved = linprog(
        program.usd,
        A_ub=program.rows,
        b_ub=program.limits,
        A_eq=program.needs,
        b_eq=program.counts,
        method="highs",
    )
    price = program.usd - program.rows.T @ solved.ineqlin.marginals
    order = np.lexsort((price, needs_of))
    second = np.flatnonzero(np.diff(needs_of[order], prepend=-1)) + 1
    second = second[second < order.size]
    # Only where the next pair belongs to the same need is there a choice.
    second = second[needs_of[order[second]] == needs_of[order[second - 1]]]
    margin = price[order[second]] - price[order[second - 1]]
    return np.asarray(needs_of[order[second]][np.argsort(margin, kind="stable")])


def _assignment(
    needs: Sequence[Need], options: Sequence[Option], program: _Program, chosen: Floats, bound: float, exact: bool
) -> Assignment:
    counts: dict[tuple[str, str], int] = {}
    hours = dict.fromkeys((option.name for option in options), 0.0)
    for (i, j), number in zip(program.pairs, np.round(chosen), strict=True):
        if number > 0:
            counts[needs[i].name, options[j].name] = int(number)
            hours[options[j].name] += float(number) * needs[i].hours[options[j].name]
    return Assignment(counts, float(program.usd @ np.round(chosen)), bound, hours, exact)


def _obstacle(needs: Sequence[Need], options: Sequence[Option], bounds: Bounds) -> NoPlanError:
    """What stands in the way, of the bounds that were set, and what would do."""
    without = {
        "budget": replace(bounds, budget_usd=None),
        "deadline": replace(bounds, deadline_hours=None),
        "quotas": replace(bounds, quotas=None),
    }
    bound = [name for name, loosened in without.items() if loosened != bounds]
    guilty = [name for name in bound if _feasible(needs, options, without[name])]
    said = f"No plan keeps the {', the '.join(bound[:-1])} and the {bound[-1]} together; "
    said += f"there is one without the {' or without the '.join(guilty)}." if guilty else "nor all but one of them."
    if len(bound) == 1:
        said = f"No plan keeps the {bound[0]}."
    hint = "Give it more time, money, quota or other machines."
    if "deadline" in guilty:
        hint = f"About {_duration(_first_deadline(needs, options, bounds))} would do; or more machines, quota or money."
    return NoPlanError(said, hint=hint)


def _feasible(needs: Sequence[Need], options: Sequence[Option], bounds: Bounds) -> bool:
    return _solve(_program(needs, options, bounds), integer=False) is not None


def _first_deadline(needs: Sequence[Need], options: Sequence[Option], bounds: Bounds) -> float:
    """Hours of the first deadline that can be kept, a little above it; there is one without any."""
    low = high = bounds.deadline_hours or 1.0
    while not _feasible(needs, options, replace(bounds, deadline_hours=high)):
        low, high = high, 2 * high
    while high > 1.02 * low:
        middle = (low * high) ** 0.5
        if _feasible(needs, options, replace(bounds, deadline_hours=middle)):
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A change, what it would cost or save, in plain words; `usd` is None where there would be no plan."""

    change: str
    usd: float | None
    sentence: str


def what_if(
    needs: Sequence[Need], options: Sequence[Option], bounds: Bounds, now: Assignment, step_machines: int = 10
) -> list[WhatIf]:
    """What `step_machines` more or fewer in each quota pool or of own machines, or another deadline, would change."""
    changes: dict[str, Bounds] = {}
    fleets: dict[str, list[Option]] = {}
    for pool, vcpus in (bounds.quotas or {}).items():
        of_pool = [option.vcpus for option in options if option.quota_pool == pool]
        step = step_machines * min(of_pool, default=0.0)
        for sign, word in ((1, "more"), (-1, "fewer")):
            quotas = {**(bounds.quotas or {}), pool: max(vcpus + sign * step, 0.0)}
            changes[f"{step_machines} {word} machines in {pool}"] = replace(bounds, quotas=quotas)
    for option in options:
        if option.machines is not None and bounds.deadline_hours is not None:
            step = min(step_machines, max(option.machines // 4, 1))
            for sign, word in ((step, "more"), (-step, "fewer")):
                other = replace(option, machines=max(option.machines + sign, 0))
                fleets[f"{step} {word} {'machine' if step == 1 else 'machines'} of {option.name}"] = [
                    other if each is option else each for each in options
                ]
    if bounds.deadline_hours is not None:
        # Three days matter to weeks; to a shorter deadline a quarter of it.
        hours = 72.0 if bounds.deadline_hours >= 240 else bounds.deadline_hours / 4
        for shift, word in ((hours, "later"), (-hours, "earlier")):
            later = replace(bounds, deadline_hours=bounds.deadline_hours + shift)
            changes[f"a deadline {_duration(hours)} {word}"] = later
    return [_what_if(change, needs, options, bounds, now) for change, bounds in changes.items()] + [
        _what_if(change, needs, fleet, bounds, now) for change, fleet in fleets.items()
    ]


def _duration(hours: float) -> str:
    return f"{hours / 24:.0f} days" if hours >= 48 else format_duration(hours * 3600)


def _what_if(change: str, needs: Sequence[Need], options: Sequence[Option], bounds: Bounds, now: Assignment) -> WhatIf:
    said = change[0].upper() + change[1:]
    try:
        then = assign(needs, options, bounds)
    except NoPlanError:
        return WhatIf(change, None, f"{said}: no plan would keep all bounds.")
    difference = then.usd - now.usd
    if abs(difference) < 0.005 * max(now.usd, 1e-9):
        return WhatIf(change, then.usd, said + LITTLE)
    word = "save" if difference < 0 else "cost"
    return WhatIf(change, then.usd, f"{said} would {word} ${abs(difference):,.0f}.")
