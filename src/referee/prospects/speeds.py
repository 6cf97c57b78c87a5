"""How fast each machine type is for a kind of submissions, and for each of them, as a person and a script read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from referee.challenge import Challenge
from referee.planning.catalogue import Catalogue
from referee.planning.groups import Group, ratio
from referee.planning.tables import Table
from referee.prospects.history import History, groups


@dataclass(frozen=True, slots=True)
class OwnSpeed:
    """How many times longer one submission takes, by its own probes, drawn towards all; with its standard error."""

    submission: str
    factor: float
    error: float


@dataclass(frozen=True, slots=True)
class Pace:
    """A kind of submissions on a machine type, against the type on which most of them ran.

    Attributes:
        against: that type.
        factor, error: how many times longer they take on average, and its standard error.
        known_from: `probes`, `runs`, `CPUs used` or `declared`.
        spread: standard deviation of the logarithm among submissions; None where not probed.
        usd: what the work of an hour on that type costs here.
        each: those that were probed on both.
    """

    kind: str
    machine_type: str
    against: str
    factor: float
    error: float
    known_from: str
    spread: float | None
    usd: float
    each: tuple[OwnSpeed, ...]

    def as_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def paces(challenge: Challenge, past: History, catalogue: Catalogue, now: datetime) -> tuple[Pace, ...]:
    """What is known of the speed of each machine type that a kind of submissions fits; nothing of a single one."""
    found = []
    for group in groups(challenge, past, catalogue, now):
        fitting = [name for name, offer in catalogue.offers.items() if group.fits(offer)]
        if group.seen and len(fitting) > 1:
            found += [_pace(group, catalogue, name) for name in fitting]
    return tuple(found)


def _pace(group: Group, catalogue: Catalogue, name: str) -> Pace:
    known = ratio(group, catalogue, group.mostly_on, name)
    probed = group.speeds.get((group.mostly_on, name))
    each = sorted(probed.each.items()) if probed else ()
    return Pace(
        group.name,
        name,
        group.mostly_on,
        known.factor,
        known.error,
        known.known_from,
        probed.spread if probed else None,
        float(catalogue.offer(name).price) * known.factor,
        tuple(OwnSpeed(evaluation.split(".")[0], factor, error) for evaluation, (factor, error) in each),
    )


def paces_table(found: tuple[Pace, ...]) -> Table:
    """The paces, as a person reads them."""
    columns = ("kind", "machine type", "#takes", "known from", "#probed", "#differ by", "#$ for the same work")
    rows = tuple(
        (
            pace.kind,
            pace.machine_type,
            "1 h" if pace.machine_type == pace.against else f"{pace.factor:.2f} h (± {pace.error:.2f})",
            pace.known_from,
            str(len(pace.each) or ""),
            "" if pace.spread is None else f"{pace.spread:.0%}",
            f"{pace.usd:.3f}" if pace.usd else "",
        )
        for pace in found
    )
    return Table("How fast the machine types are, for what takes an hour where most ran", columns, rows)
