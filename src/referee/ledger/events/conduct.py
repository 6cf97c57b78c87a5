"""What is recorded of controllers, nodes, and the dispatch as a whole."""

from __future__ import annotations

from pydantic import Field

from referee.ledger.events.event import Event, Name, Prose


class ControllerStarted(Event, kind="controller.started", by_controller=True):
    """A controller took the lease; from here on only this epoch writes what controllers write."""

    epoch: int = Field(ge=1)
    host: Name
    pid: int
    boot_id: str = ""


class ControllerStopped(Event, kind="controller.stopped", by_controller=True):
    """The controller let go of the lease in order."""

    epoch: int = Field(ge=1)
    reason: Prose = ""


class NodeProved(Event, kind="node.proved"):
    """A node showed that its sandbox keeps every promise. `checks` is how many were made."""

    node: Name
    boot_id: Name
    level: Name
    checks: int = Field(ge=0)


class NodeRefused(Event, kind="node.refused"):
    """A node could not show it, so nothing untrusted runs there."""

    node: Name
    boot_id: Name
    level: Name
    reason: Prose


class NodeQuarantined(Event, kind="node.quarantined"):
    """A node is left out after host faults in a row (see `policy.node_health`)."""

    node: Name
    reason: Prose


class NodeReleased(Event, kind="node.released"):
    """The operator takes a quarantined node back; its earlier faults are forgotten."""

    node: Name
    reason: Prose = ""


class DispatchStopped(Event, kind="dispatch.stopped"):
    """The circuit breaker opened: host faults spread, nothing more is started (see `policy.breaker`)."""

    reason: Prose


class DispatchResumed(Event, kind="dispatch.resumed"):
    """The operator lets work go out again; earlier faults no longer count for the breaker."""

    reason: Prose = ""
