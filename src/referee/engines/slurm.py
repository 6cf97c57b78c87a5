"""The engine `slurm`: attempts as job arrays of an ordinary user, on a cluster that others run.

A job is the user's errand (`worker.errand`), for which the node's warden (`worker.warden`) starts the worker inside
the job. Slurm is asked in one call for all jobs, seldom, and more seldom while nothing changes. Its silence ends
nothing: what was known last holds until it answers, or until it has been silent for longer than an operator should
not know of. What a job's end means is decided by the result alone; Slurm's word only explains its absence.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from referee.attempts import AttemptSpec
from referee.challenge import Challenge, MachineType, SlurmChoice, SlurmMachine
from referee.engines.contract import Capacity, Job, JobState, Observation
from referee.engines.slurm_commands import (
    ENDINGS,
    HINDERED,
    IMPOSSIBLE,
    PREFIX,
    Child,
    Ended,
    SlurmCommands,
    SlurmRefusedError,
    SlurmSilentError,
    array,
)
from referee.engines.waves import record_wave, recorded_waves
from referee.errors import ConfigurationError, HostError
from referee.objects import ObjectStore
from referee.phases import PhaseData
from referee.units import format_duration
from referee.verdicts import Verdict
from referee.worker.phase_files import bring

DEFAULT_SLOTS = 500

Answer = TypeVar("Answer")

_SLOWEST = 6.0  # times the poll interval
_NODES_SECONDS = 60.0
_END_SECONDS = 60  # before the time limit, Slurm asks the worker to end in order
_SAID_BYTES = 2000
_LOST = Ended(Verdict.NODE_LOST, "Slurm does not know the job any more.")


@dataclass(slots=True)
class _Entry:
    """One job of an attempt; it has several only if it was submitted twice."""

    attempt: str
    child: Child
    submitted_at: float
    gone: bool = False


class SlurmEngine:
    """Attempts on a Slurm cluster.

    Args:
        objects: the object store, in a folder that submitting machine and nodes see under one path.
        choice: the partition and so on.
        machines: machine types; without any, one is made of the partition's smallest node.
        slots: at most so many attempts that wait or run at once: a wave, beyond which a lost controller spends nothing.
        commands: how Slurm is asked.
    """

    name = "slurm"

    def __init__(
        self,
        objects: ObjectStore,
        choice: SlurmChoice,
        *,
        machines: Mapping[str, MachineType] | None = None,
        default_machine: str = "slurm",
        slots: int | None = None,
        commands: SlurmCommands | None = None,
    ) -> None:
        if objects.folder is None:
            raise ConfigurationError("Slurm's nodes need a shared folder.", hint="Set `engine.slurm.shared`.")
        self._objects = objects
        self._choice = choice
        self.commands = commands or SlurmCommands()
        self._logs = objects.folder / "slurm"
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._entries: dict[str, _Entry] = {}  # by handle
        self._waves: dict[str, tuple[str, ...]] = {}
        self._interval = choice.poll.total_seconds()
        self._next_poll = 0.0
        self._silent_since: float | None = None
        self._changed = False
        self._nodes: tuple[float, list[str]] = (0.0, [])
        found = self._asked(self.commands.configuration)
        self._slots = min(slots or DEFAULT_SLOTS, int(found.get("MaxArraySize", "1001")) - 1)
        self._machines = dict(machines or {default_machine: self._described()})
        self._poll()

    # What there is

    def machines(self) -> Mapping[str, MachineType]:
        """The machine types."""
        return self._machines

    def nodes(self) -> Sequence[str]:
        """The nodes of the partitions, also those that are down for the moment."""
        read_at, names = self._nodes
        if names and time.monotonic() < read_at + _NODES_SECONDS:
            return names
        partitions = sorted({name for kind in self._machines if (name := self._partition(kind))})
        try:
            rows = self.commands.nodes(partitions)
        except SlurmSilentError:
            if names:
                return names
            rows = self._asked(lambda: self.commands.nodes(partitions))
        self._nodes = (time.monotonic(), sorted({row["node"] for row in rows}))
        return self._nodes[1]

    def capacity(self) -> Capacity:
        """How many more attempts may wait or run; none while Slurm is silent."""
        self._refresh()
        active = {entry.attempt for entry in self._entries.values() if not entry.gone and not _has_ended(entry.child)}
        free = 0 if self._silent_since is not None else max(0, self._slots - len(active))
        return Capacity(dict.fromkeys(self._machines, free))

    def troubles(self) -> list[str]:
        """What keeps jobs from going on, with the mend, for the operator."""
        counts: dict[str, int] = defaultdict(int)
        for entry in self._entries.values():
            if entry.child.is_waiting and (mend := HINDERED.get(_word(entry.child.reason))) and not entry.gone:
                counts[f"{entry.child.reason}. {mend}"] += 1
        found = [f"{count} jobs wait: {words}" for words, count in counts.items()]
        if self._silent_since is not None:
            silent = format_duration(time.monotonic() - self._silent_since)
            found.append(f"Slurm has not answered for {silent}. Running jobs go on without it.")
        return found

    # Jobs

    def bring(self, data: PhaseData) -> None:
        """Put the phase's files where the nodes find them."""
        bring(data, self._objects)

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        """Submit the attempts, as few arrays as there are different needs.

        Raises:
            HostError: if Slurm refuses, or does not answer; it may have taken them then, which `adopt` tells.
        """
        unique = {spec.attempt: spec for spec in specs}
        groups: dict[tuple[str, int, int, tuple[str, ...]], list[AttemptSpec]] = defaultdict(list)
        for spec in unique.values():
            if spec.machine_type not in self._machines:
                raise HostError(f"There is no machine type {spec.machine_type!r}.", hint="Choose one of `machines()`.")
            minutes = self._minutes(spec)
            groups[spec.machine_type, spec.gpus, minutes, tuple(sorted(spec.avoid_nodes))].append(spec)
        taken: dict[str, str] = {}
        for (machine_type, gpus, minutes, avoided), group in groups.items():
            for begin in range(0, len(group), self._slots):
                wave = record_wave(self._objects, self.name, group[begin : begin + self._slots])
                self._waves[wave.wave] = wave.attempts
                number = self._submit(wave.wave, group[begin], len(wave.attempts), machine_type, gpus, minutes, avoided)
                for index, attempt in enumerate(wave.attempts):
                    child = Child(wave.wave, index, f"{number}_{index}", "PENDING", None, "None")
                    self._entries[child.handle] = _Entry(attempt, child, time.monotonic())
                    taken[attempt] = child.handle
        self._hurry()
        return [Job(spec.attempt, taken[spec.attempt]) for spec in specs]

    def observe(self, jobs: Sequence[Job]) -> list[Observation]:
        """What Slurm last said of each job.

        Raises:
            HostError: if Slurm has been silent for too long.
        """
        self._refresh()
        entries: dict[str, list[_Entry]] = defaultdict(list)
        for entry in self._entries.values():
            entries[entry.attempt].append(entry)
        return [self._observe(job, entries[job.attempt]) for job in jobs]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End the jobs: Slurm asks first, and kills after its KillWait."""
        wanted = {job.attempt for job in jobs}
        handles = [
            handle
            for handle, entry in self._entries.items()
            if entry.attempt in wanted and not entry.gone and not _has_ended(entry.child)
        ]
        self._asked(lambda: self.commands.cancel(handles) if handles else None)
        self._hurry()

    def adopt(self, attempts: Sequence[str]) -> list[Job]:
        """The jobs that Slurm knows of these attempts, whoever submitted them."""
        self._next_poll = 0.0
        self._asked(self._poll)
        handles = {entry.attempt: handle for handle, entry in self._entries.items() if not entry.gone}
        return [Job(attempt, handles[attempt]) for attempt in attempts if attempt in handles]

    def wait(self, seconds: float) -> None:
        """Until Slurm says something new, at most so long."""
        deadline = time.monotonic() + seconds
        while not self._changed and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, max(0.0, self._next_poll - time.monotonic())))
            self._refresh()
        self._changed = False

    def close(self) -> None:
        """Nothing to let go of: the jobs are Slurm's."""

    # Inside

    def _submit(
        self, wave: str, spec: AttemptSpec, count: int, kind: str, gpus: int, minutes: int, avoided: tuple[str, ...]
    ) -> str:
        machine, choice = self._choice.machines.get(kind, SlurmMachine()), self._choice
        memory = spec.limits.memory + choice.reserve
        options = [
            f"--job-name={PREFIX}{wave}", f"--array={array(range(count))}", "--no-requeue", "--open-mode=append",
            "--chdir=/", "--nodes=1", "--ntasks=1", f"--cpus-per-task={math.ceil(spec.limits.cpus)}",
            f"--mem={math.ceil(memory / 2**20)}M", f"--time={minutes}", f"--signal=B:TERM@{_END_SECONDS}",
            f"--output={self._log(wave, None)}", "--export=PATH",
        ]  # fmt: skip
        partition = self._partition(kind)
        options += [f"--partition={partition}"] if partition else []
        options += [f"--account={choice.account}"] if choice.account else []
        options += [f"--qos={choice.qos}"] if choice.qos else []
        options += [f"--constraint={machine.constraint}"] if machine.constraint else []
        options += [f"--gres=gpu:{machine.gres + ':' if machine.gres else ''}{gpus}"] if gpus else []
        here = self._avoidable(avoided)
        script = self._script(wave, with_gpus=gpus > 0)
        try:
            return self.commands.submit([*options, *([f"--exclude={','.join(here)}"] if here else [])], script)
        except SlurmRefusedError:
            if not here:
                raise
            # To go elsewhere is a wish, where there is an elsewhere.
            return self.commands.submit(options, script)

    def _avoidable(self, avoided: Sequence[str]) -> list[str]:
        known = set(self.nodes())
        here = sorted(known & set(avoided))
        return here if set(here) < known else []

    def _script(self, wave: str, *, with_gpus: bool) -> str:
        words = [
            str(self._choice.python or sys.executable), "-m", "referee.worker.errand",
            "--objects", self._objects.location, "--wave", wave, "--socket", str(self._choice.socket),
            *(["--gpus"] if with_gpus else []),
        ]  # fmt: skip
        told = '--index "$SLURM_ARRAY_TASK_ID" --node "$SLURMD_NODENAME"'
        job = '--job "slurm/${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"'
        return f"#!/bin/sh\nexec {shlex.join(words)} {told} {job}\n"

    def _minutes(self, spec: AttemptSpec) -> int:
        """Slurm's limit: the worker's own, and room for staging, start and publishing."""
        seconds = spec.limits.wall_time.total_seconds() * spec.wall_time_scale
        return math.ceil((seconds + self._choice.staging.total_seconds() + _END_SECONDS) / 60)

    def _partition(self, kind: str) -> str | None:
        machine = self._choice.machines.get(kind)
        return (machine.partition if machine else None) or self._choice.partition

    def _described(self) -> MachineType:
        partition = self._choice.partition
        rows = self.commands.nodes([partition] if partition else [])
        if not rows:
            raise ConfigurationError(f"The partition {partition or '(default)'} has no nodes.", hint="See `sinfo`.")
        cpus = min(int(row["cpus"]) for row in rows)
        memory = min(int(row["memory"].rstrip("+")) for row in rows) * 2**20 - self._choice.reserve
        return MachineType(cpus=cpus, memory=max(1, memory), reference=True)

    def _refresh(self) -> None:
        if time.monotonic() < self._next_poll:
            return
        try:
            self._poll()
        except SlurmSilentError as error:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            self._interval = min(self._interval * 2, self._choice.poll.total_seconds() * _SLOWEST)
            self._next_poll = now + self._interval
            silence = now - self._silent_since
            if silence > self._choice.silence.total_seconds():
                raise HostError(
                    f"Slurm has not answered for {format_duration(silence)}. {error.message}", hint=error.hint
                ) from error

    def _poll(self) -> None:
        """Ask for all jobs at once."""
        children = {child.handle: child for child in self.commands.children()}
        self._silent_since = None
        if {child.wave for child in children.values()} - set(self._waves):
            for wave in recorded_waves(self._objects, self.name, list(self._waves)):
                self._waves[wave.wave] = wave.attempts
        changed = False
        for handle, child in children.items():
            attempts = self._waves.get(child.wave, ())
            if child.index >= len(attempts):
                continue  # another campaign's
            entry = self._entries.setdefault(handle, _Entry(attempts[child.index], child, time.monotonic()))
            changed |= entry.child != child
            entry.child, entry.gone = child, False
        for handle, entry in self._entries.items():
            if handle not in children and not entry.gone:
                entry.gone = changed = True
        self._changed |= changed
        first = self._choice.poll.total_seconds()
        self._interval = first if changed else min(self._interval * 1.5, first * _SLOWEST)
        self._next_poll = time.monotonic() + self._interval
        self._give_up()

    def _give_up(self) -> None:
        """Cancel what can never start, or has waited for too long, so that it does not wait for ever."""
        patience = self._choice.max_wait.total_seconds()
        hopeless = [
            handle
            for handle, entry in self._entries.items()
            if entry.child.is_waiting and not entry.gone
            if _word(entry.child.reason) in IMPOSSIBLE or time.monotonic() > entry.submitted_at + patience
        ]
        if not hopeless:
            return
        self.commands.cancel(hopeless)
        for handle in hopeless:
            child = self._entries[handle].child
            reason = child.reason if _word(child.reason) in IMPOSSIBLE else f"WaitedTooLong ({child.reason})"
            self._entries[handle].child = Child(child.wave, child.index, handle, "GIVEN_UP", None, reason)

    def _observe(self, job: Job, entries: Sequence[_Entry]) -> Observation:
        if not entries:
            return Observation(job, JobState.UNKNOWN, None, "Slurm was never given it.")
        open_entries = [entry for entry in entries if not entry.gone and not _has_ended(entry.child)]
        for entry in open_entries:
            if entry.child.is_running:
                return Observation(job, JobState.RUNNING, entry.child.node, entry.child.state)
        if open_entries:
            return Observation(job, JobState.WAITING, None, open_entries[0].child.reason)
        entry = entries[-1]
        ended = self._ending(entry.child)
        said = self._said(entry.child)
        return Observation(
            job, JobState.ENDED, entry.child.node, f"{ended.words} {said}".strip(), lost_as=ended.verdict
        )

    def _ending(self, child: Child) -> Ended:
        word = _word(child.reason)
        if child.state == "GIVEN_UP" or (child.state == "FAILED" and word in IMPOSSIBLE):
            mend = IMPOSSIBLE.get(word, "It was cancelled: see `squeue` for what keeps jobs from starting.")
            return Ended(Verdict.UNROUTABLE, f"Slurm could not start the job: {child.reason}. {mend}")
        ended = ENDINGS.get(child.state, _LOST)
        told = f" ({child.reason})" if child.reason not in {"None", "NonZeroExitCode"} else ""
        return Ended(ended.verdict, f"Slurm: {child.state}{told}. {ended.words}")

    def _said(self, child: Child) -> str:
        """The end of what the job printed: why no worker could be had, for instance."""
        try:
            text = self._log(child.wave, child.index).read_bytes()[-_SAID_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"The job's last words: {lines[-1]}" if lines else ""

    def _log(self, wave: str, index: int | None) -> Path:
        return self._logs / f"{wave}.{'%a' if index is None else index}.log"

    def _hurry(self) -> None:
        self._interval = self._choice.poll.total_seconds()
        self._next_poll = min(self._next_poll, time.monotonic() + min(1.0, self._interval))

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        """What Slurm answers, asked again while it is silent.

        Raises:
            SlurmSilentError: if it has been silent for longer than `silence`.
        """
        began, pause = time.monotonic(), self._choice.poll.total_seconds()
        while True:
            try:
                return question()
            except SlurmSilentError:
                if time.monotonic() - began > self._choice.silence.total_seconds():
                    raise
            time.sleep(pause)
            pause = min(pause * 2, self._choice.poll.total_seconds() * _SLOWEST)


def _has_ended(child: Child) -> bool:
    return not child.is_waiting and not child.is_running


def _word(reason: str) -> str:
    """The reason's code: what stands before brackets, commas and explanations."""
    return reason.strip("()").replace(",", " ").partition(" ")[0]


def from_challenge(challenge: Challenge, objects: ObjectStore) -> SlurmEngine:
    """The engine as a challenge describes it."""
    choice = challenge.engine.slurm
    if choice is None:
        raise ConfigurationError("engine.slurm: this table is required.", hint="docs/slurm.md has an example.")
    return SlurmEngine(
        objects,
        choice,
        machines=challenge.machines,
        default_machine=challenge.engine.machine,
        slots=challenge.engine.slots,
    )
