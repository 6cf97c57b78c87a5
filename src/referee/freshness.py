"""Fresh machines: where a submission ran before, and which machines a further run of it is to leave out. Pure.

A result that comes again from the same machine says nothing about that machine: a confirmation asks for another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from referee.ledger.queries import AttemptRow, EvaluationRow


def earlier_nodes(
    submission: str,
    evaluations: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    before: str | None = None,
) -> Counter[str]:
    """How often each machine ran the submission on a phase, officially or in a series of further runs.

    Args:
        submission: whose runs.
        evaluations: those of the phase, of every series.
        attempts: all, in the order in which they were planned.
        before: only attempts that were planned before this one.
    """
    mine = {row.evaluation for row in evaluations if row.submission == submission}
    rested_on = {row.attempt for row in evaluations if row.submission == submission}  # of an equal image, perhaps
    nodes: Counter[str] = Counter()
    for row in attempts:
        if row.attempt == before:
            break
        if row.node is not None and (row.evaluation in mine or row.attempt in rested_on):
            nodes[row.node] += 1
    return nodes


def used_up(nodes: Collection[str], earlier: Counter[str]) -> frozenset[str]:
    """Of the machines that are there, those to leave out: all that were used, or where all were, the most used.

    Args:
        nodes: what could take the run.
        earlier: how often each machine ran the submission.
    """
    fewest = min((earlier[node] for node in nodes), default=0)
    return frozenset(node for node, count in earlier.items() if count > fewest)


def of_other_types(machine_type: str, attempts: Sequence[AttemptRow]) -> frozenset[str]:
    """Machines that are known to be of another type only: none of them is an alternative for this one."""
    types = {(row.node, row.machine_type) for row in attempts if row.node is not None}
    return frozenset(node for node, _ in types if node is not None and (node, machine_type) not in types)
