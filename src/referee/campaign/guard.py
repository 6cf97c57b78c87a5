"""What keeps one bad node, or a fault that spreads, from eating the campaign."""

from __future__ import annotations

from referee.engines.contract import Engine, Quarantining, Standing
from referee.ledger import DispatchStopped, Lease, NodeQuarantined, queries
from referee.policy import breaker, node_health

_QUARANTINE = "Two host faults in a row, of different evaluations: nothing more is started there until it is released."


class Guard:
    """Quarantines nodes, and says when nothing more may be started.

    Args:
        lease: what is found is recorded under its epoch.
        engine: whose nodes they are.

    Attributes:
        quarantined: the nodes on which nothing is started.
        closed: the machine types of which every node is quarantined.
    """

    def __init__(self, lease: Lease, engine: Engine) -> None:
        self._lease, self._ledger, self._engine = lease, lease.ledger, engine
        self.quarantined: frozenset[str] = frozenset()
        self.closed: frozenset[str] = frozenset()

    def look(self) -> str:
        """Quarantine what is sick by now; returns why nothing more may be started, or nothing."""
        known = {row.node for row in queries.nodes(self._ledger) if row.quarantined}
        health = node_health(queries.node_outcomes(self._ledger))
        sick = sorted(node for node, state in health.items() if state.quarantine and node not in known)
        for node in sick:
            self._lease.append([NodeQuarantined(node=node, reason=_QUARANTINE)])
        quarantined = frozenset(known | set(sick))
        fresh = sorted(quarantined - self.quarantined)
        if fresh and isinstance(self._engine, Quarantining):
            self._engine.quarantine(fresh)
        self.quarantined = quarantined
        self.closed = self._without_nodes()
        return self._stopped()

    def barred(self, machine_types: set[str]) -> str:
        """Why nothing can be started on these, which are closed."""
        return f"Every node of {', '.join(sorted(machine_types))} is quarantined. {_QUARANTINE}"

    def _without_nodes(self) -> frozenset[str]:
        if not self.quarantined or not isinstance(self._engine, Standing):
            return frozenset()
        nodes = {name: set(self._engine.nodes_of(name)) for name in self._engine.machines()}
        return frozenset(name for name, those in nodes.items() if those and those <= self.quarantined)

    def _stopped(self) -> str:
        stopped = queries.dispatch_stopped(self._ledger)
        if stopped is None and (spread := breaker(queries.recent_outcomes(self._ledger))) is not None:
            stopped = spread
            self._lease.append([DispatchStopped(reason=spread)])
        if stopped:
            return stopped
        nodes = self._engine.nodes()
        if not nodes:
            return f"The engine {self._engine.name} has no node now."
        if self.quarantined.issuperset(nodes):
            return f"{', '.join(sorted(self.quarantined))}: {_QUARANTINE}"
        return ""
