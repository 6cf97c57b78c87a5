"""The engine `memory`: nothing runs, time is virtual, and everything that can happen to a campaign happens on demand.

It claims and publishes through the object store exactly as workers do, so that the controller's logic is the same in a
simulation, in a test and on real machines. With the same seed and script the same things happen at the same times,
whatever the order of submission.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from referee.attempts import AttemptResult, AttemptSpec, Measurements
from referee.challenge import MachineType
from referee.engines.contract import Capacity, Job, JobState, Observation, SilentError
from referee.errors import HostError
from referee.objects import AlreadyExistsError, ObjectStore
from referee.verdicts import Verdict
from referee.worker.claims import claim, note_duplicate
from referee.worker.publishing import Files, publish

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Play:
    """What one execution does.

    Attributes:
        seconds: from the worker's start to its end.
        verdict: how it ends; `node_lost` ends without a result.
        predictions: the accepted prediction file, for the verdict `ok`.
        rows: how many rows it has.
        measurements: what the host measured; by default only the time.
        detail, signature: for the operator and for the participant.
        zombie_seconds: the engine takes the worker for dead at its end, but it publishes its result so much later.
    """

    seconds: float = 1.0
    verdict: Verdict = Verdict.OK
    predictions: bytes | None = None
    rows: int | None = None
    measurements: Measurements | None = None
    detail: str = ""
    signature: str = ""
    zombie_seconds: float | None = None


Script = Callable[[AttemptSpec, random.Random], Play]


@dataclass(frozen=True, slots=True)
class Faults:
    """How often the engine itself goes wrong: probabilities for each submission.

    Attributes:
        lose_reply: the submission arrives, the caller gets an error.
        double: two workers are started for it.
        delay: it waits `delay_seconds` before it starts.
    """

    lose_reply: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    delay_seconds: float = 60.0


@dataclass(slots=True)
class Execution:
    """What the engine itself knows of a worker that began an attempt: where, and from when to when (virtual seconds).

    `ended` is None while it runs; a worker that goes on after its node was declared lost ends when it really does.
    """

    attempt: str
    node: str
    began: float
    ended: float | None = None


@dataclass(slots=True)
class _Worker:
    """One execution: waiting, running or ended."""

    spec: AttemptSpec
    play: Play
    ready_at: float
    node: str | None = None
    started_at: float | None = None
    ended: bool = False
    reason: str = ""
    execution: Execution | None = None


@dataclass(order=True, slots=True)
class _Event:
    at: float
    number: int
    happen: Callable[[], None] = field(compare=False)


def always_ok(spec: AttemptSpec, _chance: random.Random) -> Play:
    """A script: everything succeeds after a second, with an empty prediction file."""
    return Play(predictions=b"", rows=len(spec.items or ()))


class MemoryEngine:
    """A simulated cluster.

    Args:
        objects: the object store that claims and results are written to.
        script: what each execution does; its chance is seeded by `seed` and the attempt's name.
        machines: machine types, each with `slots` slots on each of its `nodes`.
        nodes: names of the nodes of each machine type.
        slots: executions side by side on each node.
        faults: how often the engine goes wrong.
        seed: of all chance.
    """

    name = "memory"

    def __init__(
        self,
        objects: ObjectStore,
        script: Script = always_ok,
        *,
        machines: Mapping[str, MachineType] | None = None,
        nodes: Mapping[str, Sequence[str]] | None = None,
        slots: int = 1,
        faults: Faults | None = None,
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self._objects = objects
        self._script = script
        self._machines = dict(
            machines or {"local": MachineType(cpus=64, memory=2**40, gpus=8, gpu_memory=2**34, reference=True)}
        )
        self._nodes = {kind: list((nodes or {}).get(kind, [f"{kind}-1"])) for kind in self._machines}
        self._slots = slots
        self._faults = faults or Faults()
        self._seed = seed
        self._workers: dict[str, list[_Worker]] = {}
        self._queue: list[_Worker] = []
        self._active: dict[int, _Worker] = {}
        self._events: list[_Event] = []
        self._count = 0
        self.refused: list[str] = []  # attempts whose late result was refused, because another one counts
        self.executed: Counter[str] = Counter()
        self.executions: list[Execution] = []

    # The contract

    def machines(self) -> Mapping[str, MachineType]:
        """The machine types."""
        return self._machines

    def nodes(self) -> Sequence[str]:
        """The nodes that are up."""
        return [node for nodes in self._nodes.values() for node in nodes]

    def nodes_of(self, machine_type: str) -> Sequence[str]:
        """Those of them that are of this machine type."""
        return self._nodes[machine_type]

    def capacity(self) -> Capacity:
        """Free slots, less what waits for one."""
        waiting = Counter(worker.spec.machine_type for worker in self._queue)
        busy = Counter(worker.node for worker in self._active.values())
        return Capacity(
            {
                kind: max(0, sum(self._slots - busy[node] for node in nodes) - waiting[kind])
                for kind, nodes in self._nodes.items()
            }
        )

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        """Take the attempts.

        Raises:
            HostError: if the machine type is unknown.
            SilentError: by chance (`Faults.lose_reply`), after all were taken.
        """
        lost = False
        for spec in specs:
            if spec.machine_type not in self._machines:
                raise HostError(f"There is no machine type {spec.machine_type!r}.", hint="Choose one of `machines()`.")
            chance = random.Random(f"{self._seed}:engine:{spec.attempt}")  # noqa: S311 - a simulation, not a secret
            delay = self._faults.delay_seconds if chance.random() < self._faults.delay else 0.0
            for _ in range(2 if chance.random() < self._faults.double else 1):
                self._enter(spec, delay)
            lost = lost or (spec.attempt not in self.executed and chance.random() < self._faults.lose_reply)
        self._fill()
        if lost:
            raise SilentError("The engine's reply was lost.", hint="Ask it what it took.")
        return [Job(spec.attempt, f"memory/{spec.attempt}") for spec in specs]

    def observe(self, jobs: Sequence[Job]) -> list[Observation]:
        """The state of each job now."""
        return [self._observe(job) for job in jobs]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End the jobs' workers in order: they publish that they were interrupted."""
        for job in jobs:
            for worker in self._workers.get(job.attempt, []):
                if worker in self._queue:
                    self._queue.remove(worker)
                    self._end(worker, "It was cancelled before it began.")
        for job in jobs:
            self.interrupt(job.attempt)

    def adopt(self, attempts: Sequence[str]) -> list[Job]:
        """The attempts that it was ever given."""
        return [Job(attempt, f"memory/{attempt}") for attempt in attempts if attempt in self._workers]

    def wait(self, seconds: float) -> None:
        """Let the virtual time pass until something happens, at most so long."""
        if self._events and self._events[0].at <= self.now + seconds:
            self.advance(max(0.0, self._events[0].at - self.now))
        else:
            self.advance(seconds)

    def close(self) -> None:
        """Nothing to let go of."""

    # What a test or a simulation can do to it

    def advance(self, seconds: float) -> None:
        """Let the virtual time pass; everything due happens on the way, in order."""
        until = self.now + seconds
        while self._events and self._events[0].at <= until:
            event = heapq.heappop(self._events)
            self.now = max(self.now, event.at)
            event.happen()
        self.now = until

    def interrupt(self, attempt: str) -> None:
        """End the attempt's worker with SIGTERM, as a preemption does: it publishes `interrupted`."""
        for worker in self._workers.get(attempt, []):
            if worker.started_at is not None and not worker.ended:
                play = Play(verdict=Verdict.INTERRUPTED, detail="The worker was told to stop.")
                self._publish(worker, play)
                self._end(worker, "Its worker was told to stop.")
        self._fill()

    def kill(self, attempt: str) -> None:
        """End the attempt's worker with SIGKILL: it publishes nothing any more."""
        for worker in self._workers.get(attempt, []):
            if worker.started_at is not None:
                self._finish(worker, "Its worker was killed.")

    def start_node(self, machine_type: str, node: str) -> None:
        """One more node of a machine type takes work."""
        self._nodes[machine_type].append(node)
        self._fill()

    def lose_node(self, node: str) -> None:
        """The node vanishes with everything on it, and takes no more work."""
        for nodes in self._nodes.values():
            if node in nodes:
                nodes.remove(node)
        for worker in list(self._active.values()):
            if worker.node == node:
                self._end(worker, f"The node {node} is gone.")
        self._fill()

    # Inside

    def _enter(self, spec: AttemptSpec, delay: float) -> None:
        chance = random.Random(f"{self._seed}:{spec.attempt}")  # noqa: S311 - a simulation, not a secret
        worker = _Worker(spec, self._script(spec, chance), self.now + delay)
        self._workers.setdefault(spec.attempt, []).append(worker)
        self._queue.append(worker)
        if delay:
            self._at(worker.ready_at, self._fill)

    def _fill(self) -> None:
        """Start what waits and fits, in the order of submission."""
        busy = Counter(worker.node for worker in self._active.values())
        free = {
            kind: [node for node in nodes for _ in range(self._slots - busy[node])]
            for kind, nodes in self._nodes.items()
        }
        kept: list[_Worker] = []
        for place, worker in enumerate(self._queue):
            if not any(free.values()):
                kept += self._queue[place:]
                break
            slots = free[worker.spec.machine_type]
            node = self._choose(worker.spec, slots)
            if node is not None and worker.ready_at <= self.now:
                slots.remove(node)
                self._start(worker, node)
            else:
                kept.append(worker)
        self._queue = kept

    def _choose(self, spec: AttemptSpec, slots: Sequence[str]) -> str | None:
        """The first free node, but none that is to be avoided while there are others, free or not."""
        others = set(self._nodes[spec.machine_type]) - set(spec.avoid_nodes)
        return next((node for node in slots if node in others or not others), None)

    def _start(self, worker: _Worker, node: str) -> None:
        worker.node, worker.started_at = node, self.now
        self._active[id(worker)] = worker
        if not claim(self._objects, worker.spec.attempt, job=f"memory/{worker.spec.attempt}", node=node, boot_id=node):
            note_duplicate(
                self._objects, worker.spec.attempt, job=f"memory/{worker.spec.attempt}", node=node, boot_id=node
            )
            self._at(self.now, lambda: self._finish(worker, "Another worker has claimed this attempt."))
            return
        self.executed[worker.spec.attempt] += 1
        worker.execution = Execution(worker.spec.attempt, node, self.now)
        self.executions.append(worker.execution)
        self._at(self.now + worker.play.seconds, lambda: self._perform(worker))

    def _perform(self, worker: _Worker) -> None:
        if worker.ended:
            return
        play = worker.play
        if play.zombie_seconds is not None:
            self._at(self.now + play.zombie_seconds, lambda: self._publish(worker, play))
        elif play.verdict is not Verdict.NODE_LOST:
            self._publish(worker, play)
        self._finish(worker, "Its worker has ended.")

    def _finish(self, worker: _Worker, reason: str) -> None:
        if not worker.ended:
            self._end(worker, reason)
            self._fill()

    def _publish(self, worker: _Worker, play: Play) -> None:
        spec = worker.spec
        if worker.execution is not None:
            worker.execution.ended = self.now
        began = _EPOCH + timedelta(seconds=worker.started_at or 0.0)
        ended = _EPOCH + timedelta(seconds=self.now)
        seconds = self.now - (worker.started_at or 0.0)
        is_ok = play.verdict is Verdict.OK
        result = AttemptResult(
            attempt=spec.attempt,
            verdict=play.verdict,
            exit_status=0 if is_ok else None,
            detail=play.detail,
            signature=play.signature,
            measurements=play.measurements
            or Measurements(wall_seconds=seconds, cpu_seconds=seconds, peak_memory_bytes=0),
            predictions_rows=play.rows if is_ok else None,
            node=worker.node or "",
            boot_id=worker.node or "",
            machine_type=spec.machine_type,
            level=spec.level,
            started_at=began,
            ended_at=ended,
            worker_version="memory",
        )
        try:
            publish(self._objects, spec, result, Files(play.predictions if is_ok else None))
        except AlreadyExistsError:
            self.refused.append(spec.attempt)

    def _end(self, worker: _Worker, reason: str) -> None:
        worker.ended, worker.reason = True, reason
        if worker.execution is not None:
            worker.execution.ended = self.now
        self._active.pop(id(worker), None)

    def _observe(self, job: Job) -> Observation:
        workers = self._workers.get(job.attempt, [])
        if not workers:
            return Observation(job, JobState.UNKNOWN, None, "It was never submitted here.")
        running = [worker for worker in workers if worker.started_at is not None and not worker.ended]
        if running:
            return Observation(job, JobState.RUNNING, running[0].node)
        if any(not worker.ended for worker in workers):
            return Observation(job, JobState.WAITING)
        return Observation(job, JobState.ENDED, workers[0].node, workers[0].reason)

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, _Event(when, self._count, happen))
