"""The engine `local`: workers on this machine, as many side by side as it has room for.

A job lives as long as its worker holds the attempt's lock; nothing else is believed. Workers outlive the controller and
are found again by their locks. They are forked by a launcher, one for each controller.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from referee.attempts import AttemptSpec
from referee.challenge import Challenge, Limits, MachineType
from referee.engines.contract import Capacity, Job, JobState, Observation
from referee.engines.hardware import Hardware, this_machine
from referee.engines.launcher import encode_order
from referee.engines.processes import Watch, end_workers
from referee.engines.slots import Needs, Share, Slots
from referee.errors import HostError
from referee.objects import ObjectStore
from referee.routing import limits_on
from referee.sandbox.levels import gives_gpus, granted_bytes
from referee.sandbox.policy import Level
from referee.worker.claims import claim_key
from referee.worker.leftovers import clear_dead, clear_if_dead
from referee.worker.lock import attempts_on, is_held, read_holder
from referee.worker.main import Order
from referee.worker.run import Place

_ANSWER_SECONDS = 60.0  # a launcher that starts on a busy machine loads its modules first
_GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.5
_LOG_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Ended:
    reason: str
    began: bool = True


class LocalEngine:
    """Workers on this machine.

    Args:
        objects: the object store that the workers read from and write to.
        node_folder: this node's own folder, on a local file system.
        limits: the challenge's limits, from which the room for one more attempt is reckoned.
        machine: the machine type that this machine is taken for, by name and description; what is here bounds it.
        slots: at most so many attempts side by side; by default as many as CPUs and memory allow.
        hardware: what to give out; by default all that is here.
        cache_bytes: the most that unpacked images may take on this node.
        level: the isolation level, whose runtime takes memory beside each attempt.
    """

    name = "local"

    def __init__(
        self,
        objects: ObjectStore,
        node_folder: Path,
        limits: Limits,
        *,
        machine: tuple[str, MachineType | None] = ("local", None),
        slots: int | None = None,
        hardware: Hardware | None = None,
        cache_bytes: int | None = None,
        level: Level = "runc",
    ) -> None:
        self._objects = objects
        self._node_folder = node_folder.absolute()
        self._hardware = hardware or this_machine()
        self._machine_name, described = machine
        self._level = level
        self._machine = _bounded(described, self._hardware, granted_bytes(level, 0))
        self._limits = limits_on(limits, self._machine)
        self._slots = Slots(self._hardware, slots)
        self._cache_bytes = cache_bytes
        self._node = socket.gethostname()
        self._waiting: dict[str, AttemptSpec] = {}
        self._started: set[str] = set()
        self._followed: set[str] = set()  # whose end the launcher will tell
        self._ended: dict[str, _Ended] = {}
        self._launcher: _LauncherProcess | None = None
        self._changed = False
        self._node_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        clear_dead(self._node_folder)
        for attempt in attempts_on(self._node_folder):
            self._take_over(attempt)
        self._ready_launcher()

    # What there is

    def machines(self) -> Mapping[str, MachineType]:
        """This machine, as one machine type."""
        return {self._machine_name: self._machine}

    def nodes(self) -> Sequence[str]:
        """This machine's name."""
        return [self._node]

    def capacity(self) -> Capacity:
        """How many more attempts under the challenge's limits fit now."""
        self._settle()
        free = self._slots.room(self._needs(self._limits, 0)) - len(self._waiting)
        return Capacity({self._machine_name: max(0, free)})

    # Jobs

    def submit(self, specs: Sequence[AttemptSpec]) -> list[Job]:
        """Start a worker for each specification, as soon as there is room for it.

        Raises:
            HostError: if one of them can never run here (`referee.routing` tells before), or no worker can be started.
        """
        for spec in specs:
            if not self._slots.fits(self._needs(spec.limits, spec.gpus)):
                raise HostError(
                    f"{spec.attempt} needs more than this machine has.",
                    hint="Lower the challenge's limits, or run it where they fit.",
                )
        for spec in specs:
            self._waiting.setdefault(spec.attempt, spec)
        self._dispatch()
        return [Job(spec.attempt, spec.attempt) for spec in specs]

    def observe(self, jobs: Sequence[Job]) -> list[Observation]:
        """What can be seen of each job now."""
        self._settle()
        self._dispatch()
        return [self._observe(job) for job in jobs]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask the jobs' workers to stop, and kill those that have not within some seconds."""
        holders = []
        for job in jobs:
            if self._waiting.pop(job.attempt, None) is not None:
                self._ended[job.attempt] = _Ended("It was cancelled before it began.", began=False)
            elif (holder := read_holder(self._node_folder, job.attempt)) is not None:
                holders.append(holder)
        end_workers(holders, _GRACE_SECONDS)
        self._changed = True

    def adopt(self, attempts: Sequence[str]) -> list[Job]:
        """Those of the attempts whose workers live on this machine."""
        held = [attempt for attempt in attempts if is_held(self._node_folder, attempt)]
        for attempt in held:
            self._take_over(attempt)
        return [Job(attempt, attempt) for attempt in held]

    def wait(self, seconds: float) -> None:
        """Until a worker ended, at most so long."""
        deadline = time.monotonic() + seconds
        adopted = Watch([a for a in self._slots.holders if a not in self._followed], self._node_folder)
        try:
            while not self._changed and (left := deadline - time.monotonic()) > 0:
                pipe = [self._launcher.answers] if self._launcher is not None else []
                limit = min(left, _POLL_SECONDS) if adopted.blind else left
                ready, _, _ = select.select([*pipe, *adopted.descriptors], [], [], limit)
                if ready or adopted.blind_changed():
                    break
        finally:
            adopted.close()
        self._changed = False

    def close(self) -> None:
        """Let go: the launcher ends with its last worker."""
        self._drop_launcher()

    # Inside

    def _observe(self, job: Job) -> Observation:
        attempt = job.attempt
        if attempt in self._waiting:
            return Observation(job, JobState.WAITING, self._node)
        if is_held(self._node_folder, attempt):
            return Observation(job, JobState.RUNNING, self._node)
        if (ended := self._ended.get(attempt)) is not None:
            return Observation(job, JobState.ENDED, self._node if ended.began else None, ended.reason)
        if attempt in self._started or self._objects.exists(claim_key(attempt)):
            return Observation(job, JobState.ENDED, self._node, "Its worker has ended.")
        return Observation(job, JobState.UNKNOWN, None, "No worker of it was ever seen on this machine.")

    def _settle(self) -> None:
        """Read what the launcher said, and take back the shares of workers that are gone."""
        if self._launcher is not None:
            for said in self._launcher.read():
                self._hear(said)
            if self._launcher.is_dead:
                self._drop_launcher()
        for attempt in self._slots.holders:
            if not is_held(self._node_folder, attempt):
                self._slots.release(attempt)
                clear_if_dead(self._node_folder, attempt)

    def _hear(self, said: dict[str, Any]) -> None:
        if "started" in said:
            self._waiting.pop(said["started"], None)
            self._started.add(said["started"])
            self._followed.add(said["started"])
        if "refused" in said:
            self._waiting.pop(said["refused"], None)
            self._ended[said["refused"]] = _Ended(said["reason"])
        if "ended" in said:
            self._followed.discard(said["ended"])
            self._ended[said["ended"]] = _Ended(f"Its worker ended with status {said['status']}.")
            self._changed = True

    def _dispatch(self) -> None:
        orders: list[Order] = []
        for attempt, spec in list(self._waiting.items()):
            share = self._slots.take(attempt, self._needs(spec.limits, spec.gpus))
            if share is not None:
                orders.append(self._order(spec, share))
        if not orders:
            return
        for _ in range(2):  # a launcher that died is replaced once: orders that it had taken are refused by their lock
            unanswered = self._send(orders)
            if not unanswered:
                break
            orders = unanswered
        else:
            for order in orders:
                self._slots.release(order.attempt)
            log = self._node_folder / "launcher.log"
            raise HostError("No worker can be started on this machine: the launcher dies.", hint=f"Read {log}.")

    def _send(self, orders: list[Order]) -> list[Order]:
        """Have workers started; returns the orders that were not answered because the launcher died."""
        launcher = self._ready_launcher()
        launcher.send(b"".join(map(encode_order, orders)))
        open_orders = {order.attempt: order for order in orders}
        deadline = time.monotonic() + _ANSWER_SECONDS
        while open_orders and not launcher.is_dead and time.monotonic() < deadline:
            select.select([launcher.answers], [], [], max(0.0, deadline - time.monotonic()))
            for said in launcher.read():
                open_orders.pop(said.get("started") or said.get("refused") or "", None)
                self._hear(said)
        if open_orders:
            self._drop_launcher()
        return list(open_orders.values())

    def _order(self, spec: AttemptSpec, share: Share) -> Order:
        place = Place(
            node=self._node,
            job=f"local/{spec.attempt}",
            cpus=share.cpus,
            gpus=share.gpus,
            cache_bytes=self._cache_bytes,
        )
        return Order(f"specs/{spec.attempt}.json", self._objects.location, self._node_folder, place, share.memory_bytes)

    def _take_over(self, attempt: str) -> None:
        """Count what a worker has that an earlier controller started."""
        if attempt in self._slots.holders:
            return
        holder = read_holder(self._node_folder, attempt)
        if holder is not None:
            cpu_count = len(holder.cpus) or self._limits.cpus
            self._slots.reserve(attempt, Share(
                holder.cpus, holder.gpus, holder.memory_bytes, cpu_count, self._limits.gpu_sharing
            ))  # fmt: skip
        elif is_held(self._node_folder, attempt):
            needs = self._needs(self._limits, 0)
            self._slots.reserve(attempt, Share((), (), needs.memory_bytes, needs.cpus))

    def _needs(self, limits: Limits, gpus: int) -> Needs:
        return Needs(limits.cpus, granted_bytes(self._level, limits.memory), gpus, limits.gpu_sharing)

    def _drop_launcher(self) -> None:
        if self._launcher is not None:
            self._launcher.let_go()
            self._launcher = None
            self._followed.clear()
            self._changed = True

    def _ready_launcher(self) -> _LauncherProcess:
        if self._launcher is None:
            self._launcher = _LauncherProcess(self._node_folder / "launcher.log")
        return self._launcher


class _LauncherProcess:
    """The launcher, from the controller's side."""

    def __init__(self, log: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _LOG_LIMIT_BYTES:
                log.unlink()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "referee.engines.launcher"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                start_new_session=True,
            )
        assert self._process.stdout is not None  # noqa: S101 - it was asked for as a pipe
        self.answers = self._process.stdout.fileno()
        os.set_blocking(self.answers, False)
        self._buffer = b""
        self.is_dead = False

    def send(self, lines: bytes) -> None:
        """Hand over orders; one that cannot be handed over is seen by its missing answer."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for as a pipe
        try:
            self._process.stdin.write(lines)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.is_dead = True

    def read(self) -> list[dict[str, Any]]:
        """The answers that have come since the last call."""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.answers, 1 << 16):
                self._buffer += part
            self.is_dead = True
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines]

    def let_go(self) -> None:
        """Close both pipes; the launcher ends when its last worker has."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self._process.poll()
        # It may outlive us for as long as its workers do, and is not waited for.
        self._process.returncode = self._process.returncode if self._process.returncode is not None else 0


def _bounded(described: MachineType | None, hardware: Hardware, overhead_bytes: int = 0) -> MachineType:
    """The machine type as described, with no more than what is here for attempts."""
    memory = max(1, hardware.memory_bytes - overhead_bytes)
    machine = described or MachineType(cpus=len(hardware.cpus), memory=memory, gpus=len(hardware.gpus), reference=True)
    gpus = min(machine.gpus, len(hardware.gpus))
    here = min((gpu.memory_bytes for gpu in hardware.gpus), default=0) or machine.gpu_memory  # 0: not known
    return machine.model_copy(
        update={
            "cpus": min(machine.cpus, len(hardware.cpus)),
            "memory": min(machine.memory, memory),
            "gpus": gpus,
            "gpu_memory": min(here, machine.gpu_memory or here) if gpus and here is not None else None,
        }
    )


def from_challenge(challenge: Challenge, objects: ObjectStore, node_folder: Path) -> LocalEngine:
    """The engine as a challenge describes it."""
    name = challenge.engine.machine
    return LocalEngine(
        objects,
        node_folder,
        challenge.limits,
        machine=(name, challenge.machines.get(name)),
        slots=challenge.engine.slots,
        hardware=None if gives_gpus(challenge.sandbox.level) else replace(this_machine(), gpus=()),
        level=challenge.sandbox.level,
        cache_bytes=challenge.engine.image_cache,
    )
