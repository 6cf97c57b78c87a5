"""What an engine must do: place trusted workers on machines, and say what it believes about them.

An engine is a rumour (design invariant 1): nothing it says ends an evaluation by itself. What counts is
the result that the worker wrote once, under the attempt's own key. All calls work on batches and may be
repeated safely; none is made inside a database transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from referee.attempts import AttemptSpec
from referee.challenge import MachineType
from referee.engines.machine_lives import MachineLife
from referee.errors import HostError
from referee.phases import PhaseData
from referee.verdicts import Verdict


class SilentError(HostError):
    """The engine did not answer: what was asked for may have been done or not, and may be asked for again."""


class JobState(StrEnum):
    """What the engine says of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Job:
    """An attempt's job on the engine. `attempt` is chosen by us before submission; `handle` is the engine's own id."""

    attempt: str
    handle: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What the engine says of one job now.

    Attributes:
        node: where its worker is, or was; None if it is not known, or nothing ever began.
        reason: the engine's own words, for the operator.
        lost_as: what the end of the job means if its worker left no result.
    """

    job: Job
    state: JobState
    node: str | None = None
    reason: str = ""
    lost_as: Verdict = Verdict.NODE_LOST


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much more work the engine would take now: a number of attempts for each machine type."""

    free: dict[str, int]


@runtime_checkable
class Engine(Protocol):
    """Where attempts run. Implementations: `memory`, `local`, `slurm`, `aws-batch`, and by entry points."""

    name: str

    def machines(self) -> Mapping[str, MachineType]:
        """The machine types that this engine can offer, whether or not one is free now."""
        ...

    def nodes(self) -> Sequence[str]:
        """Names of the nodes that could take work now, as they stand in results (`AttemptResult.node`)."""
        ...

    def capacity(self) -> Capacity:
        """How many more attempts of each machine type can be submitted now."""
        ...

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        """Take each specification: its worker starts now, or as soon as there is room.

        An attempt that is submitted again is not executed again. Raises `RefereeError` if the engine refuses; some of
        the attempts may then have been taken nevertheless, which `adopt` and the attempts' claims tell.
        """
        ...

    def observe(self, jobs: Sequence[Job]) -> list[Observation]:
        """What the engine says of each job now, in the order asked. Jobs it no longer knows are `UNKNOWN`."""
        ...

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End the jobs' workers, and with them their sandboxes. Unknown jobs are ignored."""
        ...

    def adopt(self, attempts: Sequence[str]) -> list[Job]:
        """Find again the jobs of attempts that an earlier controller submitted."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or earlier when something may have changed."""
        ...

    def close(self) -> None:
        """Let go of the engine; running workers go on and can be adopted."""
        ...


@runtime_checkable
class Remote(Protocol):
    """An engine whose nodes do not see this machine's files: the phase's data goes to them through the object store."""

    def bring(self, data: PhaseData) -> None:
        """Put the phase's files where the nodes find them, before the first attempt; may be repeated."""
        ...

    def troubles(self) -> list[str]:
        """What keeps work from going on, and how it is mended: a sentence or two each, for the operator."""
        ...


@runtime_checkable
class Quarantining(Protocol):
    """An engine that can keep others' work, too, away from nodes that went wrong."""

    def quarantine(self, nodes: Sequence[str]) -> None:
        """The campaign starts nothing more on these nodes; may be repeated."""
        ...


@runtime_checkable
class Standing(Protocol):
    """An engine whose machines are there whether or not it has work, so that it can tell which are of which type."""

    def nodes_of(self, machine_type: str) -> Sequence[str]:
        """Names of the nodes that attempts of this machine type may be placed on, as they stand in results."""
        ...


@runtime_checkable
class Hiring(Protocol):
    """An engine whose machines are hired for its work, and paid for from launch to end."""

    def lives(self) -> Sequence[MachineLife]:
        """The machines that there were, as they were noted last."""
        ...

    def up(self) -> Sequence[str] | None:
        """The machines that are up now; None if nobody can tell."""
        ...
