"""The engine `slurm`: attempts as job arrays of an ordinary user, on a cluster that others run.

A job is the user's errand (`worker.errand`), for which the node's warden (`worker.warden`) starts the worker inside
the job. What a job's end means is decided by the result alone; Slurm's word (`slurm_states`) only explains its absence.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from referee.attempts import AttemptSpec
from referee.challenge import Challenge, MachineType, SlurmChoice
from referee.engines.contract import Capacity, Job, JobState, Observation
from referee.engines.shortages import Shortages, offered
from referee.engines.slurm_commands import SlurmCommands, SlurmRefusedError, SlurmUnfitError
from referee.engines.slurm_logs import JobLogs
from referee.engines.slurm_partitions import Partitions
from referee.engines.slurm_queue import Entry, SlurmQueue
from referee.engines.slurm_request import Needs, for_submissions, wave_options, wave_script
from referee.engines.slurm_states import HINDERED, IMPOSSIBLE, LOST, REQUEUED, Ended, ending, never_begins
from referee.engines.waves import record_wave
from referee.errors import ConfigurationError, HostError
from referee.objects import ObjectStore
from referee.phases import PhaseData
from referee.sandbox.policy import Level
from referee.units import format_duration
from referee.verdicts import Verdict
from referee.worker.phase_files import bring

DEFAULT_SLOTS = 500

_OF_ONE_JOB = frozenset({"DependencyNeverSatisfied"})  # what says nothing about others of the same machine type


class SlurmEngine:
    """Attempts on a Slurm cluster.

    Args:
        objects: the object store, in a folder that submitting machine and nodes see under one path.
        choice: the partition and so on.
        machines: machine types; without any, one is made of the partition's smallest node.
        slots: at most so many attempts of each type that wait or run at once: a wave, beyond which a lost controller
            spends nothing.
        level: the isolation level, whose runtime takes memory beside each attempt.
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
        level: Level = "runc",
        commands: SlurmCommands | None = None,
    ) -> None:
        if objects.folder is None:
            raise ConfigurationError("Slurm's nodes need a shared folder.", hint="Set `engine.slurm.shared`.")
        self._objects, self._choice = objects, choice
        self.commands = commands or SlurmCommands()
        self._logs = JobLogs(objects.folder / "slurm")
        self._shortages = Shortages()
        self._undrained: dict[str, str] = {}
        self._queue = SlurmQueue(self.commands, objects, self.name, choice.poll, choice.silence, self._give_up)
        found = self._queue.asked(self.commands.configuration)
        self._slots = min(slots or DEFAULT_SLOTS, int(found.get("MaxArraySize", "1001")) - 1)
        self._partitions = Partitions(self.commands, choice, tuple(machines or ()))
        described = machines or {default_machine: self._queue.asked(self._partitions.smallest)}
        self._machines = {kind: for_submissions(choice, machine, level) for kind, machine in described.items()}
        self._queue.asked(self._queue.poll)
        self._logs.sweep([entry.child for entry in self._queue.entries])

    # What there is

    def machines(self) -> Mapping[str, MachineType]:
        """The machine types; one that cannot be had now is left out where another can do its work."""
        return offered(self._machines, self._shortages.names)

    def nodes(self) -> Sequence[str]:
        """The nodes of the partitions, also those that are down for the moment."""
        return self._queue.asked(self._partitions.nodes)

    def nodes_of(self, machine_type: str) -> Sequence[str]:
        """Those of the machine type's partition."""
        return self._queue.asked(lambda: self._partitions.nodes_of(machine_type))

    def capacity(self) -> Capacity:
        """How many more attempts of each machine type may wait or run; none while Slurm is silent."""
        self._queue.refresh()
        if self._queue.silent_seconds is not None:
            return Capacity(dict.fromkeys(self._machines, 0))
        at_hand = self.machines()
        used = Counter(kind for _, kind in {(e.attempt, e.machine_type) for e in self._queue.entries if e.is_open})
        return Capacity({kind: max(0, self._slots - used[kind]) * (kind in at_hand) for kind in self._machines})

    def troubles(self) -> list[str]:
        """What keeps jobs from going on, with the mend, for the operator."""
        counts: Counter[str] = Counter()
        for entry in self._queue.entries:
            if entry.is_open and entry.child.is_waiting and (mend := HINDERED.get(entry.child.word)):
                counts[f"{entry.child.reason}. {mend}"] += 1
        found = [f"{count} jobs wait: {words}" for words, count in counts.items()] + self._shortages.troubles()
        if self._undrained:
            nodes, said = ",".join(self._undrained), "; ".join(dict.fromkeys(self._undrained.values()))
            found.append(
                f"Two host faults in a row: nothing of this campaign goes to {nodes}. Others' jobs still do: {said} "
                f"To drain: scontrol update nodename={nodes} state=drain reason=referee"
            )
        if (silent := self._queue.silent_seconds) is not None:
            found.append(f"Slurm has not answered for {format_duration(silent)}. Running jobs go on without it.")
        return found

    def quarantine(self, nodes: Sequence[str]) -> None:
        """Have Slurm drain nodes that went wrong, where the challenge asks for it and Slurm lets this user.

        The campaign's own jobs are kept away by `--exclude` in any case.
        """
        for node in sorted(set(nodes) & set(self.nodes())):
            said = "`engine.slurm.drain` is not set."
            if self._choice.drain:
                try:
                    self.commands.drain(node, "referee: two host faults in a row")
                except HostError as error:
                    said = error.message
                else:
                    continue
            self._undrained[node] = said

    # Jobs

    def bring(self, data: PhaseData) -> None:
        """Put the phase's files where the nodes find them."""
        bring(data, self._objects)

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        """Submit the attempts, as few arrays as there are different needs.

        Raises:
            HostError: if Slurm refuses, or does not answer; it may have taken them then, which `adopt` tells.
        """
        groups: dict[tuple[Needs, frozenset[str]], list[AttemptSpec]] = defaultdict(list)
        for spec in {spec.attempt: spec for spec in specs}.values():
            if spec.machine_type not in self._machines:
                raise HostError(f"There is no machine type {spec.machine_type!r}.", hint="Choose one of `machines()`.")
            groups[Needs.of(spec), frozenset(spec.avoid_nodes)].append(spec)
        taken: dict[str, str] = {}
        for group in groups.values():
            for begin in range(0, len(group), self._slots):
                entries = self._submit(group[begin : begin + self._slots])
                taken |= {entry.attempt: entry.child.handle for entry in entries}
        self._queue.hurry()
        return [Job(spec.attempt, taken[spec.attempt]) for spec in specs]

    def observe(self, jobs: Sequence[Job]) -> list[Observation]:
        """What Slurm last said of each job.

        Raises:
            HostError: if Slurm has been silent for too long.
        """
        self._queue.refresh()
        entries = self._queue.by_attempt()
        return [self._observe(job, entries.get(job.attempt, [])) for job in jobs]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End the jobs: Slurm asks first, and kills after its KillWait."""
        wanted = {job.attempt for job in jobs}
        handles = [entry.child.handle for entry in self._queue.entries if entry.attempt in wanted and entry.is_open]
        self._queue.asked(lambda: self.commands.cancel(handles))
        self._queue.hurry()

    def adopt(self, attempts: Sequence[str]) -> list[Job]:
        """The jobs that Slurm knows of these attempts, whoever submitted them."""
        self._queue.asked(self._queue.poll)
        handles = {entry.attempt: entry.child.handle for entry in self._queue.entries if entry.told is not LOST}
        return [Job(attempt, handles[attempt]) for attempt in attempts if attempt in handles]

    def wait(self, seconds: float) -> None:
        """Until Slurm says something new, at most so long."""
        self._queue.wait(seconds)

    def close(self) -> None:
        """Let go: the jobs are Slurm's."""
        self._logs.sweep([entry.child for entry in self._queue.entries if entry.told is None])

    # Inside

    def _submit(self, specs: Sequence[AttemptSpec]) -> list[Entry]:
        """One wave of attempts that need the same."""
        wave = record_wave(self._objects, self.name, specs)
        self._queue.know(wave)
        needs, log = Needs.of(specs[0]), self._logs.pattern(wave.wave)
        options = wave_options(self._choice, wave.wave, len(specs), needs, log)
        script = wave_script(self._choice, wave.wave, self._objects.location)
        avoided = self._avoidable(wave.machine_type, specs[0].avoid_nodes)
        try:
            if avoided:
                try:
                    return self._queue.add(wave, self.commands.submit([*options, f"--exclude={avoided}"], script))
                except SlurmRefusedError:
                    pass  # to go elsewhere is a wish, where there is an elsewhere
            return self._queue.add(wave, self.commands.submit(options, script))
        except SlurmUnfitError as error:
            entries = self._queue.add(wave, f"refused.{wave.wave}")
            ended = self._cannot_be_had(wave.machine_type, error.message, _COMPARE)
            for entry in entries:
                entry.given_up = ended
            return entries

    def _avoidable(self, kind: str, avoided: Sequence[str]) -> str:
        known = set(self.nodes_of(kind))
        here = known & set(avoided)
        return ",".join(sorted(here)) if here < known else ""

    def _give_up(self) -> None:
        """Have Slurm end what can never start, has waited for too long, or would be run again."""
        patience = self._choice.max_wait.total_seconds()
        hopeless = {}
        for entry in self._queue.entries:
            child = entry.child
            if not entry.is_open or not child.is_waiting:
                continue
            if child.restarts:
                hopeless[child.handle] = entry, REQUEUED
            elif child.word in _OF_ONE_JOB:
                hopeless[child.handle] = entry, Ended(Verdict.UNROUTABLE, f"{child.reason}. {IMPOSSIBLE[child.word]}")
            elif mend := never_begins(child.word):
                ended = self._cannot_be_had(entry.machine_type, child.reason, mend)
                hopeless[child.handle] = entry, ended
            elif child.waited_seconds > patience:
                said = f"WaitedTooLong ({child.reason}): not one began within {format_duration(patience)}"
                hopeless[child.handle] = entry, self._cannot_be_had(entry.machine_type, said, _LOOK, patience)
        if hopeless:
            self.commands.cancel(list(hopeless))
            for entry, ended in hopeless.values():
                entry.given_up = ended

    def _cannot_be_had(self, kind: str, said: str, mend: str, seconds: float = math.inf) -> Ended:
        """What becomes of jobs of a machine type that cannot be had: another type does their work, or none can."""
        trouble = f"Slurm could not start jobs of the machine type {kind}: {said.rstrip('.')}. {mend}"
        self._shortages.note(kind, trouble, seconds)
        # What was taken back before it began says nothing about the nodes.
        return Ended(Verdict.UNROUTABLE if kind in self.machines() else Verdict.INTERRUPTED, trouble)

    def _observe(self, job: Job, entries: Sequence[Entry]) -> Observation:
        if not entries:
            return Observation(job, JobState.UNKNOWN, None, "Slurm was never given it.")
        still = [entry.child for entry in entries if entry.is_open]
        for child in still:
            if child.is_running:
                return Observation(job, JobState.RUNNING, child.node, child.state)
        if still:
            return Observation(job, JobState.WAITING, None, still[0].reason)
        ended = self._end_of(entries[-1])
        return Observation(job, JobState.ENDED, entries[-1].child.node, ended.words, lost_as=ended.verdict)

    def _end_of(self, entry: Entry) -> Ended:
        if entry.given_up is not None:
            return entry.given_up
        if entry.told is None or entry.told is LOST:
            child = entry.child
            ended = entry.told or ending(child, began=self._logs.exists(child))
            words = f"{ended.words} {self._logs.last_words(child)}".strip()
            if entry.told is LOST:
                return Ended(LOST.verdict, words)
            entry.told = Ended(ended.verdict, words)
            if child.state == "COMPLETED":
                self._logs.remove(child)
        return entry.told


_COMPARE = (
    "Compare the limits and `[engine.slurm]` with `sinfo -Nl`; the memory of a job is more than its submission's."
)
_LOOK = "It was cancelled: see `squeue` and `sinfo -R` for what keeps jobs from starting, or raise `max_wait`."


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
        level=challenge.sandbox.level,
    )
