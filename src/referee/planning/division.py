"""A kind's group divided into the classes of measured need: each with what is known of its own runtimes and speeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from referee.planning.classes import NeedClass
from referee.planning.groups import LEAST_MEASURED, Group
from referee.planning.runtime import Runtimes
from referee.planning.speeds import Probe, speeds


def divided(
    group: Group,
    classes: Sequence[NeedClass],
    members: Mapping[str, str],
    waiting: Collection[str],
    probes: Sequence[Probe] = (),
) -> list[Group]:
    """A kind's group as one group for each of its classes; the group itself where it has none.

    A class of which too few have ended says nothing of how long it takes: it is counted with the nearest class, and
    takes as long. What it needs of a machine stays its own. What waits and was not measured stays with the kind.

    Args:
        group: the whole kind, with the names of all that started.
        classes: of all kinds.
        members: of each evaluation its class, or its kind.
        waiting: the evaluations that have not started.
        probes: of all kinds.
    """
    mine = {each.name: each for each in sorted(classes, key=lambda each: each.up_to) if each.kind == group.name}
    if not mine:
        return [group]
    ended = Counter(
        members[name]
        for here, who in group.who.items()
        for name, over in zip(who, group.seen[here].ended, strict=True)
        if over
    )
    own = [name for name in mine if ended[name] >= LEAST_MEASURED]
    waits = Counter(members[name] for name in waiting)
    if not own:  # how long they take, nobody knows of any class; where they fit, of each
        whole = replace(group, size=group.started + waits[group.name])
        return [whole, *(_lent(whole, need, waits[name]) for name, need in mine.items() if waits[name])]
    found = []
    hosts = {name: _host(name, list(mine), own, ended) for name in (*mine, group.name)}
    for name in own:
        part = _of_those(group, {who for who, of in members.items() if hosts.get(of) == name})
        part = _needing(part, mine[name], part.started + waits[name], members, probes)
        few = [need for other, need in mine.items() if other not in own and hosts[other] == name and waits[other]]
        found += [part, *(_lent(part, need, waits[need.name]) for need in few)]
    if waits[group.name]:
        found.append(replace(group, size=waits[group.name], lender=""))
    return found


def _host(name: str, names: Sequence[str], own: Sequence[str], ended: Mapping[str, int]) -> str:
    """With which class those that have started are counted: their own, or the nearest; unmeasured ones, the largest."""
    if name not in names:
        return max(own, key=lambda each: ended[each])
    return min(own, key=lambda each: abs(names.index(each) - names.index(name)))


def _of_those(group: Group, some: Collection[str]) -> Group:
    """The group with what was seen of some of its evaluations."""
    seen, who, used = {}, {}, {}
    for here, names in group.who.items():
        part = np.array([name in some for name in names], dtype=np.bool_)
        if not part.any():
            continue
        runtimes = group.seen[here]
        seen[here] = Runtimes(runtimes.hours[part], runtimes.ended[part], runtimes.limit_hours)
        who[here] = tuple(name for name, is_one in zip(names, part, strict=True) if is_one)
        if here in group.cpus_used:
            used[here] = group.cpus_used[here][part]
    return replace(group, seen=seen, who=who, cpus_used=used)


def _needing(group: Group, needed: NeedClass, size: int, members: Mapping[str, str], probes: Sequence[Probe]) -> Group:
    """The group under its class's name, with its speeds where enough of it were probed, and what it needs."""
    own = speeds([probe for probe in probes if members.get(probe.evaluation) == needed.name], needed.kind)
    return replace(_lent(group, needed, size), lender=None, speeds={**group.speeds, **own})


def _lent(group: Group, needed: NeedClass, size: int) -> Group:
    """Others than those of a group, who are taken to take as long, and what they need."""
    least = int(needed.up_to) if needed.measure == "gpu_memory" else group.gpu_memory_bytes
    return replace(group, name=needed.name, size=size, gpu_memory_bytes=least, lender=group.name)
