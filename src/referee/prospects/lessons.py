"""What the attempts so far have taught of each kind on each machine type: what a pilot is run for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from scipy import special

from referee.challenge import Challenge
from referee.ledger import queries
from referee.planning.catalogue import Catalogue
from referee.planning.groups import Group, ratio
from referee.planning.tables import Table
from referee.prospects.history import History, groups, seconds_taken
from referee.units import format_duration, format_size
from referee.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Lesson:
    """One kind of submissions on one machine type. None where nothing was measured.

    Attributes:
        ended, valid: attempts that ended, and those with a valid result.
        failure_low, failure_high: 90% interval of the share without a valid result (Clopper and Pearson).
        start_up_seconds: median of what the host adds before the container runs.
        seconds, longest_seconds: median and longest of the container's own time.
        item_seconds: median of that time for one item.
        cpus: upper 95% of the CPUs that were kept busy on average.
        memory_bytes, gpu_memory_bytes: the largest peak.
        slower: how many times longer it takes than on the type with most attempts of its kind, and the standard error.
    """

    kind: str
    machine_type: str
    ended: int
    valid: int
    failure_low: float
    failure_high: float
    start_up_seconds: float | None
    seconds: float | None
    longest_seconds: float | None
    item_seconds: float | None
    cpus: float | None
    memory_bytes: int | None
    gpu_memory_bytes: int | None
    slower: tuple[float, float] | None

    def as_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def lessons(challenge: Challenge, past: History, catalogue: Catalogue, items: int, now: datetime) -> tuple[Lesson, ...]:
    """What is known by now.

    Args:
        challenge: for the groups.
        past: the phase's history.
        catalogue: the engine's machine types.
        items: files of the phase.
        now: the moment.
    """
    by_kind = {group.name: group for group in groups(challenge, past, catalogue, now)}
    found = []
    for kind, group in by_kind.items():
        for name in sorted(group.seen, key=lambda name: (-group.seen[name].hours.size, name)):
            rows = [
                row
                for row in past.attempts
                if row.machine_type == name and past.kinds[row.evaluation] == kind and row.verdict and not row.smoke
            ]
            if rows:
                found.append(_lesson(kind, name, rows, items, group, catalogue))
    return tuple(found)


def _lesson(
    kind: str, name: str, rows: Sequence[queries.AttemptRow], items: int, group: Group, catalogue: Catalogue
) -> Lesson:
    measured = [row.measurements for row in rows if row.measurements is not None]
    valid = sum(row.verdict is Verdict.OK for row in rows)
    failed = len(rows) - valid
    # Only a run that went through has done all items.
    whole = [row.measurements.wall_seconds for row in rows if row.measurements and row.verdict is Verdict.OK]
    gpu = [m.gpu_peak_memory_bytes for m in measured if m.gpu_peak_memory_bytes is not None]
    return Lesson(
        kind=kind,
        machine_type=name,
        ended=len(rows),
        valid=valid,
        failure_low=float(special.betaincinv(failed, valid + 1, 0.05)) if failed else 0.0,
        failure_high=float(special.betaincinv(failed + 1, valid, 0.95)) if valid else 1.0,
        start_up_seconds=_median([m.preparation_seconds for m in measured]),
        seconds=_median([m.wall_seconds for m in measured]),
        longest_seconds=max((m.wall_seconds for m in measured), default=None),
        item_seconds=_median([seconds / max(items, 1) for seconds in whole]),
        cpus=float(np.quantile([m.cpu_seconds / max(m.wall_seconds, 1e-9) for m in measured], 0.95))
        if measured
        else None,
        memory_bytes=max((m.peak_memory_bytes for m in measured), default=None),
        gpu_memory_bytes=max(gpu, default=None),
        slower=_measured(group, catalogue, name),
    )


def _measured(group: Group, catalogue: Catalogue, name: str) -> tuple[float, float] | None:
    """How many times longer it takes than where most of the group ran; None where that was not measured."""
    if name == group.mostly_on:
        return None
    found = ratio(group, catalogue, group.mostly_on, name)
    return (found.factor, found.error) if found.known_from in {"probes", "runs"} else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def lessons_table(found: Sequence[Lesson]) -> Table:
    """The lessons, as a person reads them."""
    columns = (
        "kind",
        "machine type",
        "#ended",
        "#failed",
        "#start-up",
        "#median",
        "#longest",
        "#for an item",
        "#CPUs",
        "#memory",
        "#GPU memory",
        "slower by",
    )
    return Table("What was learned", columns, tuple(_cells(lesson) for lesson in found))


def _cells(lesson: Lesson) -> tuple[str, ...]:
    failed = lesson.ended - lesson.valid
    return (
        lesson.kind,
        lesson.machine_type,
        str(lesson.ended),
        f"{failed} ({lesson.failure_low:.0%} to {lesson.failure_high:.0%})",
        *(
            "" if seconds is None else format_duration(seconds)
            for seconds in (lesson.start_up_seconds, lesson.seconds, lesson.longest_seconds, lesson.item_seconds)
        ),
        "" if lesson.cpus is None else f"{lesson.cpus:.2g}",
        *("" if size is None else format_size(size) for size in (lesson.memory_bytes, lesson.gpu_memory_bytes)),
        "" if lesson.slower is None else f"{lesson.slower[0]:.2f} (± {lesson.slower[1]:.2f})",
    )


def hours_kept(past: History, now: datetime) -> float:
    """Machine hours that the phase has taken so far."""
    return sum(seconds_taken(row, now) for row in past.attempts) / 3600
