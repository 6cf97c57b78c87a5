"""One sandbox: set up, run once, measured from outside, and gone without a trace.

It must be used inside a mount namespace of the worker's own. Everything is a child of this process or lies in its
mount namespace, so that the kernel ends it with this process; what is left then (cgroups, folders) is for `sweep`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from referee.errors import HostError, UnsafeHostError
from referee.images.model import UnpackedImage
from referee.sandbox import cgroups, kernel, mounts
from referee.sandbox.bundle import runtime_configuration
from referee.sandbox.cdi import NO_EDITS
from referee.sandbox.gpus import GpuMemory, claim_gpus, resolve_gpus
from referee.sandbox.harvest import Refusal, harvest
from referee.sandbox.identities import IdRange, claim_ids
from referee.sandbox.levels import runtime_of
from referee.sandbox.log import Ending, LogPipe
from referee.sandbox.peak import SampledPeak
from referee.sandbox.policy import SandboxPolicy
from referee.sandbox.rootfs import DEFAULT_PATH, BadImageError, Process, make_folder
from referee.sandbox.runtime import PID_FILE, End, process_end
from referee.sandbox.stage import RUN_FOLDER, Stage

LOCK_NAME = "box.lock"
LEAF_NAME = "cgroups.json"
NAMESPACE_NAME = "namespace"  # of the process that starts the runtime

_START_SECONDS = 60.0
_DEATH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class BoxOutcome:
    """What happened, told by the host's kernel. Sizes are bytes, times are seconds.

    Attributes:
        started: the image's program was started. If not, `start_error` says why, and `bad_image` whether the image
            itself was found to be the reason.
        exit_status: of the first process, if it exited; `signal` if a signal ended it.
        ended_by: who ended it.
        oom_kills: processes that the kernel killed because this sandbox reached its own memory limit.
        host_oom_kills: processes killed because the machine, or a group above, ran out of memory: the host's doing.
        cpu_throttled: periods (of 0.1 s) in which it was held back at its share of the processors.
        start_seconds: from the runtime's start to the program's.
        start_cpu_seconds: of `cpu_seconds`, what the runtime's own start took; it begins before the limit is set.
        peak_memory_bytes: of the whole cgroup, so that at the level `gvisor` the sentry's own is part of it.
        memory_limit_bytes: of the whole cgroup likewise.
        pids_peak: most processes and threads at once, where the kernel counts those of the submission alone.
        pids_refused: how often a new process or thread was refused.
        log_bytes: all that was written to standard output and error, also what was not kept.
        log_tail: the last that was written, also beyond what was kept.
        gpu_peak_memory_bytes: most memory in use on its GPUs, where the driver's library tells and nobody shares them.
        output_bytes: room taken in the output folder; `output_files` counts every kind of entry there.
    """

    started: bool
    exit_status: int | None = None
    signal: int | None = None
    ended_by: Ending = "itself"
    kill_reason: str = ""
    oom_kills: int = 0
    host_oom_kills: int = 0
    peak_memory_bytes: int = 0
    memory_limit_bytes: int = 0
    cpu_seconds: float = 0.0
    start_cpu_seconds: float = 0.0
    cpu_throttled: int = 0
    wall_seconds: float = 0.0
    start_seconds: float = 0.0
    pids_peak: int | None = None
    pids_refused: int = 0
    log_bytes: int = 0
    log_tail: str = ""
    gpu_peak_memory_bytes: int | None = None
    output_bytes: int = 0
    output_files: int = 0
    start_error: str = ""
    bad_image: bool = False


class Box:
    """A sandbox for one run. Use it as a context; leaving it removes everything, however it is left.

    Args:
        policy: what is allowed.
        image: the unpacked image.
        data: the folder with the phase's files.
        items: the files of `data` that may be seen, by their paths relative to it; `None` for all.
        folder: an empty folder of this attempt; nothing in it is visible inside.

    Raises:
        HostError: on entering, if this machine cannot set the sandbox up.
    """

    def __init__(
        self, policy: SandboxPolicy, image: UnpackedImage, data: Path, items: tuple[str, ...] | None, folder: Path
    ) -> None:
        self._engine = runtime_of(policy.level)
        if policy.gpus and policy.level == "gvisor":
            raise UnsafeHostError(
                "The isolation level gvisor gives no GPUs: the release of gVisor that is supported has no way to.",
                hint="Run submissions that need a GPU at the level `runc`, on machines of their own.",
            )
        self._policy = policy
        self._image = image
        self._data = data.resolve(strict=True)
        self._items = items
        self._folder = folder.resolve(strict=True)
        self._leaf: cgroups.Leaf | None = None
        self._leaf_stays = False
        self._stage: Stage | None = None
        self._process: Process | None = None
        self._refusal = ""
        self._container: int | None = None  # pid file descriptor
        self._runtime: subprocess.Popen[bytes] | None = None
        self._ids: IdRange | None = None
        self._kill_reason: str | None = None
        self._wake_read = self._wake_write = -1
        self._log = LogPipe(policy)
        self._gpus = NO_EDITS
        # The driver tells the memory of a whole card, which of a shared one is nobody's in particular.
        self._gpu_memory = GpuMemory(policy.gpus if policy.gpu_sharing == 1 else ())
        self._sampled: SampledPeak | None = None
        self._clean = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._hold_lock(undo)
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(self._close_wake)
            if self._kill_reason is not None:
                self.kill(self._kill_reason)
            kernel.become_subreaper()
            undo.callback(self._close_container)
            undo.callback(self._remove_leaf)
            make_folder(RUN_FOLDER, 0o711)  # the first sandbox of this boot finds nothing
            self._ids = undo.enter_context(claim_ids(RUN_FOLDER / "ids"))
            self._gpus = resolve_gpus(self._policy.gpus)
            undo.enter_context(claim_gpus(RUN_FOLDER / "gpus", self._gpus, self._policy.gpu_sharing))
            self._stage = Stage(self._policy, self._ids, self._gpus)
            self._stage.mount()
            undo.callback(self._stage.unmount)
            undo.callback(self._end_everything)
            try:
                self._process = self._stage.fill(self._image, self._data, self._items)
            except BadImageError as error:
                self._refusal = str(error)
            self._clean = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean.close()

    def _hold_lock(self, undo: ExitStack) -> None:
        path = self._folder / LOCK_NAME
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, lock)
        undo.callback(self._empty_folder)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _empty_folder(self) -> None:
        for path in self._folder.iterdir():
            if self._leaf_stays and path.name in {LOCK_NAME, LEAF_NAME, NAMESPACE_NAME}:
                continue  # what tells the next sweep of it
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def kill(self, reason: str) -> None:
        """End the sandbox now; from a signal handler or another thread. `run` then returns `ended_by="kill"`."""
        self._kill_reason = self._kill_reason or reason
        if self._wake_write >= 0:
            with contextlib.suppress(BlockingIOError):  # full of such words already
                os.write(self._wake_write, b"k")

    def run(self, log: BinaryIO) -> BoxOutcome:
        """Start the image's program, wait for its end, and say what happened. Keeps the log's first bytes in `log`.

        Raises:
            HostError: if the runtime cannot be started or the sandbox cannot be ended.
        """
        if self._process is None:
            return BoxOutcome(started=False, start_error=self._refusal, bad_image=True)
        if self._leaf is not None:
            raise HostError("A sandbox runs once.", hint="Open another one for another run.")
        began = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._gpu_memory)
            self._start(stack, log)
            ending = self._watch(self._runtime_descriptor(stack), began + _START_SECONDS)
            if ending != "itself":
                return self._never_started(ending)
            error = self._find_container()
            if error is not None:
                return BoxOutcome(started=False, start_error=error, log_bytes=self._log.seen_bytes)
            assert self._container is not None and self._stage is not None  # noqa: S101, PT018 - it was found
            started = self._start_time(self._stage, began)
            assert self._leaf is not None  # noqa: S101 - the container is in it
            start_cpu_seconds = self._leaf.cpu_seconds()
            self._watch_peak(stack)
            ending = self._watch(self._container, started + self._policy.wall_seconds)
            status = self._reap()
            wall_seconds = time.monotonic() - started
            self._log.drain()
        outcome = self._outcome(status, ending, wall_seconds, started - began)
        return replace(outcome, start_cpu_seconds=start_cpu_seconds)

    def harvest(self, name: str, limit_bytes: int) -> bytes | Refusal:
        """The one declared file of the output folder, or why it is refused. To be called after `run`."""
        if self._stage is None or self._leaf is None or self._leaf.processes():
            raise HostError("The output can only be read after the sandbox has ended.", hint="Call `run` first.")
        return harvest(self._stage.output, name, limit_bytes)

    def _start(self, stack: ExitStack, log: BinaryIO) -> None:
        assert self._process is not None and self._ids is not None and self._stage is not None  # noqa: S101, PT018 - entered
        host = cgroups.give_controllers(cgroups.locate())
        name = f"{cgroups.PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
        extra = self._engine.overhead
        self._leaf = cgroups.Leaf(host, name, self._policy.memory_bytes + extra.memory_bytes)
        (self._folder / NAMESPACE_NAME).write_text(str(Path("/proc/self/ns/pid").readlink()))
        (self._folder / LEAF_NAME).write_text(json.dumps([str(path) for path in self._leaf.folders()]))
        if self._policy.level == "runc":  # runsc sets no limits in a group that it finds, and opens no host socket
            self._leaf.limit_sockets()
        configuration = runtime_configuration(
            self._policy, self._process, self._ids, str(self._stage.root), self._leaf.runtime_path,
            self._image.record.architecture, swap=self._leaf.can_limit_swap, processors=self._leaf.processors,
            extra=extra,
            nodes=[(node, self._stage.node(node)) for node in self._gpus.nodes],
        )  # fmt: skip
        runtime = self._stage.runtime
        (runtime / "config.json").write_text(json.dumps(self._engine.adapt(configuration, self._policy)))
        writer = self._log.open(stack, log, self._wake_read)
        # Two open files of the one pipe: gVisor sets and reads flags of each, and would disturb itself.
        errors = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_CLOEXEC)
        os.fchown(writer, self._ids.host(self._process.uid), self._ids.host(self._process.gid))
        command = self._engine.start_command(runtime, name)
        try:
            self._runtime = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=writer, stderr=errors, cwd="/", env={"PATH": DEFAULT_PATH},
                umask=0o022,
            )  # fmt: skip
        finally:
            os.close(writer)
            os.close(errors)

    def _watch_peak(self, stack: ExitStack) -> None:
        if self._leaf is not None and not self._leaf.keeps_peak:
            self._sampled = stack.enter_context(SampledPeak(self._leaf.memory_bytes))

    def _runtime_descriptor(self, stack: ExitStack) -> int:
        assert self._runtime is not None  # noqa: S101 - started just before
        descriptor = os.pidfd_open(self._runtime.pid)
        stack.callback(os.close, descriptor)
        return descriptor

    def _watch(self, process: int, deadline: float) -> Ending:
        ending = self._log.pump(process, deadline)
        if ending != "itself":
            self._signal_all()
        return ending

    def _never_started(self, ending: Ending) -> BoxOutcome:
        self._end_everything()
        error = f"The runtime did not start the container within {_START_SECONDS:.0f} s."
        if ending == "kill":
            error = "The sandbox was ended before the container started."
        return BoxOutcome(
            started=False, ended_by=ending, kill_reason=self._kill_reason or "", start_error=error,
            log_bytes=self._log.seen_bytes,
        )  # fmt: skip

    def _find_container(self) -> str | None:
        assert self._runtime is not None and self._stage is not None  # noqa: S101, PT018 - started just before
        status = self._runtime.wait()
        pid_file = self._stage.runtime / PID_FILE
        if status != 0 or not pid_file.exists():
            self._log.drain()
            return self._engine.read_error(self._stage.runtime) or f"The runtime ended with status {status}."
        try:
            self._container = os.pidfd_open(int(pid_file.read_text(encoding="ascii")))
        except (ValueError, OSError) as error:
            raise HostError(f"The container's process cannot be found: {error}.", hint="Try again.") from error
        return None

    def _start_time(self, stage: Stage, earliest: float) -> float:
        # The runtime writes the pid file when the program starts, and lives some milliseconds longer.
        age = time.time() - (stage.runtime / PID_FILE).stat().st_mtime
        now = time.monotonic()
        return min(now, max(earliest, now - age))

    def _signal_all(self) -> None:
        if self._container is not None:
            # The first process of a pid namespace takes all others with it (pid_namespaces(7)).
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._container, signal.SIGKILL)
        if self._runtime is not None and self._runtime.poll() is None:
            self._runtime.kill()

    def _reap(self) -> os.waitid_result:
        assert self._container is not None  # noqa: S101 - the container was found
        poller = select.poll()
        poller.register(self._container, select.POLLIN)
        if not poller.poll(_DEATH_SECONDS * 1000):
            raise HostError("The sandbox could not be ended.", hint="Look for processes in uninterruptible sleep (D).")
        status = os.waitid(os.P_PIDFD, self._container, os.WEXITED)
        if status is None:
            raise HostError("The container's end could not be read.", hint="Nothing else may wait for its process.")
        return status

    def _outcome(
        self, status: os.waitid_result, ending: Ending, wall_seconds: float, start_seconds: float
    ) -> BoxOutcome:
        assert self._leaf is not None and self._stage is not None  # noqa: S101, PT018 - it ran
        if not self._leaf.kill():
            raise HostError("Processes of the sandbox would not end.", hint="Look for processes in state D.")
        usage = self._leaf.usage(self._sampled.peak_bytes if self._sampled is not None else 0)
        output_bytes, output_files = mounts.usage(self._stage.output)
        end = self._engine.read_end(self._stage.runtime, status)
        if end == End() and usage.pids_refused:
            end = process_end(status)  # the runtime itself could not go on at the submission's limit of processes
        return BoxOutcome(
            started=True,
            exit_status=end.exit_status,
            signal=end.signal,
            ended_by=ending,
            kill_reason=self._kill_reason or "" if ending == "kill" else "",
            oom_kills=usage.oom_kills,
            host_oom_kills=usage.host_oom_kills,
            peak_memory_bytes=usage.peak_memory_bytes,
            memory_limit_bytes=self._leaf.limit_bytes,
            cpu_seconds=usage.cpu_seconds,
            cpu_throttled=usage.cpu_throttled,
            wall_seconds=wall_seconds,
            start_seconds=start_seconds,
            pids_peak=None if self._engine.overhead.pids else usage.pids_peak,
            pids_refused=usage.pids_refused,
            log_bytes=self._log.seen_bytes,
            log_tail=self._log.tail.decode("utf-8", errors="replace"),
            gpu_peak_memory_bytes=self._gpu_memory.peak_bytes,
            output_bytes=output_bytes,
            output_files=output_files,
        )

    def _end_everything(self) -> None:
        self._signal_all()
        if self._runtime is not None:
            self._runtime.wait(_DEATH_SECONDS)
        if self._leaf is not None:
            self._leaf.kill()
        if self._container is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._container, os.WEXITED)

    def _close_wake(self) -> None:
        # A late `kill` must not write to a descriptor that has become something else.
        reader, writer = self._wake_read, self._wake_write
        self._wake_read = self._wake_write = -1
        os.close(reader)
        os.close(writer)

    def _close_container(self) -> None:
        if self._container is not None:
            os.close(self._container)
            self._container = None

    def _remove_leaf(self) -> None:
        if self._leaf is not None:
            self._leaf_stays = True
            self._leaf.remove()
            self._leaf_stays = False
