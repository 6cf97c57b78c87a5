"""The engine `aws-batch`: workers on EC2, placed by AWS Batch as arrays of jobs; one queue for each machine type.

A queue over several types or markets would change type and price silently, so each type, on demand or spot, has its own
(`docs/aws.md`). Batch never tries again by itself (`attempts` 1): an attempt is one execution, and what comes next is
the controller's to say.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from referee.attempts import AttemptSpec
from referee.challenge import Challenge, Limits, MachineType
from referee.engines.aws_batch_calls import BatchCalls, ThrottledError, UnansweredError
from referee.engines.aws_batch_fleet import Fleet, fleet_of
from referee.engines.aws_batch_follow import ENDED, RUNNING, WAITING, Array, Child, Following
from referee.engines.aws_batch_heartbeat import Heartbeat
from referee.engines.aws_batch_jams import Jams
from referee.engines.aws_batch_lives import Lives
from referee.engines.aws_batch_request import JOB_PREFIX, job_name, limit_seconds, submission
from referee.engines.aws_batch_stack import Patience, Stack, patience_of, stack_of
from referee.engines.contract import Capacity, Job, JobState, Observation
from referee.engines.machine_lives import MachineLife
from referee.engines.waves import Wave, record_wave, recorded_waves
from referee.errors import ConfigurationError, HostError, ObjectStoreError
from referee.objects import ObjectStore
from referee.phases import PhaseData
from referee.worker.claims import claim_key
from referee.worker.phase_files import bring

NAME = "aws-batch"
MOST_CHILDREN = 10_000  # of an array; at least 2, so one attempt alone is a job without one

_SHORTEST_PAUSE_SECONDS = 0.05
_FRESH = "a fresh instance"
_CLAIM_LIMIT_BYTES = 1 << 16
_UNANSWERED_SECONDS = 300.0
_LOOKS_PER_NOTE = 3  # machines are noted more seldom than jobs are looked up: AWS tells of an end for an hour
_STATES = {WAITING: JobState.WAITING, RUNNING: JobState.RUNNING, ENDED: JobState.ENDED}


class AwsBatchEngine:
    """Workers on EC2.

    Args:
        objects: the object store that the workers read from and write to.
        calls: to AWS.
        stack: what there is in the account.
        fleet: the machine types, what they register, and how many there can be.
        limits: the challenge's limits, from which the room for more attempts is reckoned.
        patience: for how long what is waited for.
        clock: seconds.
        pause: sleeps for so many of them.
    """

    name = NAME

    def __init__(
        self,
        objects: ObjectStore,
        calls: BatchCalls,
        stack: Stack,
        fleet: Fleet,
        limits: Limits,
        *,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.calls = calls
        self._objects, self._stack, self._fleet, self._limits = objects, stack, fleet, limits
        self._patience = patience or Patience()
        self._clock, self._pause = clock, pause
        self._listen_at = self._note_at = 0.0
        self._lives = Lives(calls, objects, NAME, stack.name)
        self._heartbeat = Heartbeat(calls, stack.name, stack.heartbeat_alarm)
        self._following = Following(calls, stack.events_url, self._patience.look, clock)
        self._waves: dict[str, Wave] = {}
        self._arrays_of: dict[str, list[tuple[Array, int]]] = {}  # an attempt may have been submitted more than once
        self._nodes: dict[str, str] = {}
        self._thrown_away: set[str] = set()
        self._jams = Jams(calls, self._following, stack, fleet, self._patience, clock)
        self._recovered = False

    # What there is

    def machines(self) -> Mapping[str, MachineType]:
        """The machine types; one that cannot be had now is left out where another can do its work."""
        return self._fleet.offered(self._jams.shortages.names)

    def nodes(self) -> Sequence[str]:
        """The machines that were seen; and always a fresh one, because the fleet follows the work."""
        return [_FRESH, *dict.fromkeys(self._nodes.values())]

    def capacity(self) -> Capacity:
        """How many more attempts are taken: whole waves, so that thousands of attempts are tens of submissions."""
        self._recover()
        missing = self._jams.shortages.names
        open_now = dict.fromkeys(self._fleet.machines, 0)
        for array in self._following.arrays.values():
            name = self._fleet.of_queue(self._stack.name, array.queue)
            open_now[name] += array.count(WAITING) + array.count(RUNNING)
        return Capacity(
            {
                name: 0 if name in missing else self._fleet.room(name, self._limits, count)
                for name, count in open_now.items()
            }
        )

    def troubles(self) -> list[str]:
        """What keeps work from going on, and how it is mended."""
        found = self._jams.shortages.troubles()
        since = self._following.unanswered_since
        if since is not None and self._clock() - since > _UNANSWERED_SECONDS:
            minutes = int((self._clock() - since) / 60)
            found.append(
                f"AWS has given no answer for {minutes} minutes: {self._following.unanswered_because} "
                "What runs goes on, and its results are kept."
            )
        return found

    # Jobs

    def bring(self, data: PhaseData) -> None:
        """Put the phase's files into the bucket."""
        bring(data, self._objects)

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        """Submit the attempts: an array for all that are alike.

        Raises:
            HostError: if AWS refuses or does not answer; some of them may have been taken.
        """
        self._recover()
        self._throw_away({node for spec in specs for node in spec.avoid_nodes})
        for alike in self._alike(specs):
            self._submit_wave(alike)
        return [self._job(spec.attempt) for spec in specs]

    def observe(self, jobs: Sequence[Job]) -> list[Observation]:
        """What Batch said last of each job, at most some minutes ago."""
        self._recover()
        self._following.refresh()
        self._jams.clear()
        return [self._observe(job) for job in jobs]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End the jobs: what has begun is told to stop, and killed half a minute later; what waits never begins."""
        self._recover()
        wanted: dict[str, set[int]] = {}
        for job in jobs:
            for array, index in self._arrays_of.get(job.attempt, ()):
                if array.children[index].state != ENDED:
                    wanted.setdefault(array.id, set()).add(index)
        for name, indices in wanted.items():
            array = self._following.arrays[name]
            live = {index for index, child in enumerate(array.children) if child.state != ENDED}
            ids = [array.id] if live <= indices else [array.child_id(index) for index in sorted(indices)]
            for each in ids:
                self.calls.terminate(each, "Cancelled by the operator.")
        self._following.look_now()

    def adopt(self, attempts: Sequence[str]) -> list[Job]:
        """The jobs of the attempts that Batch knows, by the recorded maps and the jobs' names."""
        self._recover(again=True)
        return [self._job(attempt) for attempt in attempts if attempt in self._arrays_of]

    def wait(self, seconds: float) -> None:
        """Until a job's state changed, at most so long."""
        deadline = self._clock() + seconds
        while not self._has_news() and (left := deadline - self._clock()) > 0:
            self._pause(max(_SHORTEST_PAUSE_SECONDS, min(left, self._listen_at - self._clock())))

    def _has_news(self) -> bool:
        now = self._clock()
        self._heartbeat.beat(now)
        if now >= self._note_at:
            self._note_at = now + _LOOKS_PER_NOTE * self._patience.look
            self._lives.look()
        if now >= self._listen_at:
            self._listen_at = now + self._patience.listen
            if self._following.listen():
                return True
        return self._following.refresh()

    def lives(self) -> Sequence[MachineLife]:
        """The machines that there were, as they were noted last."""
        return self._lives.known()

    def up(self) -> Sequence[str] | None:
        """The machines that are up now, whoever's they are; None if AWS does not answer."""
        return self._lives.look()

    def close(self) -> None:
        """Let go of the engine: jobs are AWS's. A controller that leaves while some are out is missed by the alarm."""
        self._following.close()
        self._lives.look()
        if not any(array.is_live for array in self._following.arrays.values()):
            self._heartbeat.end()

    # Submitting

    def _alike(self, specs: Sequence[AttemptSpec]) -> Iterator[list[AttemptSpec]]:
        """What can go into one array: the same machine type, needs and time, and not submitted yet."""
        groups: dict[tuple[object, ...], dict[str, AttemptSpec]] = {}
        for spec in specs:
            if spec.attempt not in self._arrays_of:
                key = (spec.machine_type, spec.gpus, spec.limits.cpus, spec.limits.memory, limit_seconds(spec))
                groups.setdefault(key, {}).setdefault(spec.attempt, spec)
        for alike in groups.values():
            rows = list(alike.values())
            for begin in range(0, len(rows), MOST_CHILDREN):
                yield rows[begin : begin + MOST_CHILDREN]

    def _submit_wave(self, specs: Sequence[AttemptSpec]) -> None:
        queue = self._fleet.queue(self._stack.name, specs[0].machine_type)
        wave = record_wave(self._objects, NAME, specs)
        self._waves[wave.wave] = wave
        try:
            job = self.calls.submit(submission(wave, specs[0], self._stack, self._fleet, self._objects.location))
        except ThrottledError:
            raise
        except UnansweredError:
            # It may have been taken all the same: its name tells. If Batch does not show it yet, the controller submits
            # once more, and of two workers one gets the claim.
            found = [job["jobId"] for job in self.calls.named(queue, job_name(wave.wave))]
            if not found:
                raise
            job = found[0]
        self._follow(wave, job, queue)

    def _follow(self, wave: Wave, job: str, queue: str) -> None:
        array = self._following.follow(job, queue, len(wave.attempts))
        for index, attempt in enumerate(wave.attempts):
            places = self._arrays_of.setdefault(attempt, [])
            if all(known is not array for known, _ in places):
                places.append((array, index))

    def _recover(self, *, again: bool = False) -> None:
        """Find the jobs of recorded waves, whoever submitted them."""
        if self._recovered and not again:
            return
        for wave in recorded_waves(self._objects, NAME, list(self._waves)):
            self._waves[wave.wave] = wave
        by_name = {job_name(name): wave for name, wave in self._waves.items()}
        kinds = {wave.machine_type for wave in self._waves.values()} & set(self._fleet.machines)
        for queue in [self._fleet.queue(self._stack.name, kind) for kind in sorted(kinds)]:
            for job in self.calls.named(queue, JOB_PREFIX):
                if (found := by_name.get(job["jobName"])) is not None:
                    self._follow(found, job["jobId"], queue)
        if not self._recovered or again:
            self._following.look_now()
            self._following.refresh()
        self._recovered = True

    # Observing

    def _job(self, attempt: str) -> Job:
        array, index = self._arrays_of[attempt][0]
        return Job(attempt, array.child_id(index))

    def _observe(self, job: Job) -> Observation:
        children = [array.children[index] for array, index in self._arrays_of.get(job.attempt, ())]
        if not children:
            return Observation(job, JobState.UNKNOWN, None, "It was never submitted to this stack.")
        child = min(children, key=lambda child: (RUNNING, WAITING, ENDED).index(child.state))
        node = self._node_of(job.attempt) if child.state == ENDED else None
        return Observation(job, _STATES[child.state], node, _words(child), self._jams.lost_as(child))

    def _node_of(self, attempt: str) -> str | None:
        """Batch names a machine's place in ECS; its own name stands in the claim."""
        if attempt not in self._nodes:
            with contextlib.suppress(ObjectStoreError, ValueError, KeyError, TypeError):
                claim = json.loads(self._objects.get(claim_key(attempt), limit_bytes=_CLAIM_LIMIT_BYTES))
                self._nodes[attempt] = str(claim["node"])
        return self._nodes.get(attempt)

    def _throw_away(self, nodes: Collection[str]) -> None:
        """End machines that went wrong, so that Batch cannot choose them again: it cannot be told to avoid one.

        A machine on which another attempt runs is left to it.
        """
        if not nodes:
            return
        self._following.look_at_running()
        running = [name for name, places in self._arrays_of.items() if any(_runs(*place) for place in places)]
        busy = {self._node_of(attempt) for attempt in running}
        bad = [node for node in sorted(nodes) if node.startswith("i-") and node not in busy | self._thrown_away]
        if bad:
            with contextlib.suppress(HostError):  # it may be gone already
                self.calls.end_machines(bad)
            self._thrown_away |= set(bad)


def _runs(array: Array, index: int) -> bool:
    return array.children[index].state == RUNNING


def _words(child: Child) -> str:
    if child.state == ENDED:
        return child.reason or "Its job has ended."
    return child.reason


def from_challenge(challenge: Challenge, objects: ObjectStore) -> AwsBatchEngine:
    """The engine as a challenge describes it, on the stack that it names.

    Raises:
        ConfigurationError: if the challenge names no stack, or its objects lie where machines in AWS cannot reach them.
        HostError: if AWS does not show the stack.
    """
    choice = challenge.engine.aws
    if choice is None:
        raise ConfigurationError("engine.aws: this table is required.", hint="docs/aws.md has an example.")
    if objects.folder is not None:
        raise ConfigurationError(
            "Machines in AWS cannot reach a folder of this machine.", hint="Keep the objects in the stack's bucket."
        )
    calls = BatchCalls(choice.region, choice.profile)
    stack, fleet = stack_of(choice, calls), fleet_of(challenge, choice)
    return AwsBatchEngine(objects, calls, stack, fleet, challenge.limits, patience=patience_of(choice))
