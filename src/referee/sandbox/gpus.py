"""The GPUs of one sandbox: held alone while it runs, and their memory watched through the driver's own library."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from referee.errors import HostError
from referee.sandbox import cdi
from referee.sandbox.cdi import NO_EDITS, DeviceNode, Edits, find_device, gpu_devices
from referee.sandbox.rootfs import make_folder

_POLL_SECONDS = 0.05


def resolve_gpus(names: Sequence[str]) -> Edits:
    """What a sandbox with these GPUs gets: the specifications' edits, checked.

    Args:
        names: UUIDs as the driver gives them, or qualified CDI names.

    Raises:
        UnsafeHostError: if a GPU is not described on this machine, or asks for what a sandbox does not give.
    """
    devices = gpu_devices(cdi.FOLDERS) if names else []
    edits = NO_EDITS
    for name in names:
        # The library starts threads, and who asks may fork later: it is only loaded where a name alone says too little.
        index = None if any(device.is_called(name) for device in devices) else _index(name)
        edits = edits + find_device(name, index, devices).edits()
    return edits


def allowed_gpus() -> list[str]:
    """The GPUs that this machine describes and this process may use, each by one name.

    A group of devices (cgroups: `devices` on version 1, a BPF program on version 2) shuts the others out, root too. So
    inside a Slurm job with ConstrainDevices=yes these are the job's own, told by the kernel and not by the job:
    SLURM_JOB_GPUS is the user's to write, and CUDA_VISIBLE_DEVICES counts from 0 in each such job.

    Raises:
        UnsafeHostError: if a specification cannot be read, or asks for what a sandbox does not give.
    """
    found: dict[tuple[DeviceNode, ...], str] = {}
    for device in gpu_devices(cdi.FOLDERS):
        if device.places and all(os.access(place, os.R_OK | os.W_OK) for place in device.places):
            nodes = device.edits().own_nodes
            # One GPU may be described twice, by its number and by its UUID: the longer name tells more.
            found[nodes] = max(found.get(nodes, ""), device.qualified_name, key=len)
    return sorted(found.values())


def _index(name: str) -> int | None:
    with nvml() as driver:
        return driver.index(name) if driver is not None else None


@contextmanager
def claim_gpus(claims: Path, edits: Edits, sharing: int = 1) -> Iterator[None]:
    """Hold each device node of `edits` on this machine: alone, or as one of `sharing` that share it.

    The kernel frees them when this process ends. Two names may mean one GPU, so that what is held is the numbers of
    its node. Whoever shares holds a shared lock on them and one of so many places.

    Raises:
        HostError: if other sandboxes have one of them.
    """
    make_folder(claims, 0o700)
    with ExitStack() as held:
        for node in edits.own_nodes:
            name = f"{node.major}-{node.minor}"
            places = [f"{name}.{number}" for number in range(sharing)]
            kind = fcntl.LOCK_EX if sharing == 1 else fcntl.LOCK_SH
            if not _lock(held, claims / name, kind) or (
                sharing > 1 and not any(_lock(held, claims / place, fcntl.LOCK_EX) for place in places)
            ):
                raise HostError(
                    f"Another sandbox has the GPU {node.path}.", hint="Wait for it, or end the worker that holds it."
                )
        yield


def _lock(held: ExitStack, path: Path, kind: int) -> bool:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, lock)
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class GpuMemory:
    """The most memory in use on the sandbox's GPUs while the context is open, beyond what was in use before.

    It is the driver's total for the whole GPU, asked every 0.05 s: a GPU is given to one sandbox alone, so that all of
    it is the sandbox's; a shorter peak can be missed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._held = ExitStack()
        self.peak_bytes: int | None = None

    def __enter__(self) -> Self:
        driver = self._held.enter_context(nvml()) if self._names else None
        before = driver.used(self._names) if driver is not None else None
        if driver is not None and before is not None:
            self.peak_bytes = 0
            self._thread = threading.Thread(target=self._watch, args=(driver, before), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._held.close()

    def _watch(self, driver: Driver, before: int) -> None:
        while not self._stop.is_set():
            used = driver.used(self._names)
            if used is not None:
                self.peak_bytes = max(self.peak_bytes or 0, used - before)
            self._stop.wait(_POLL_SECONDS)


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Driver:
    """What is needed of NVML (NVIDIA Management Library, nvml.h)."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def _handle(self, name: str) -> ctypes.c_void_p | None:
        handle = ctypes.c_void_p()
        short = name.rpartition("=")[2]
        if short.isascii() and short.isdigit():
            failed = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(short)), ctypes.byref(handle))
        else:
            failed = self._library.nvmlDeviceGetHandleByUUID(short.encode(), ctypes.byref(handle))
        return None if failed else handle

    def index(self, name: str) -> int | None:
        """The driver's number for the GPU; `None` if it knows none of that name."""
        handle, index = self._handle(name), ctypes.c_uint()
        if handle is None or self._library.nvmlDeviceGetIndex(handle, ctypes.byref(index)):
            return None
        return index.value

    def used(self, names: Sequence[str]) -> int | None:
        """Bytes in use on all of them; `None` if the driver does not know one."""
        total = 0
        for name in names:
            handle, memory = self._handle(name), _Memory()
            if handle is None or self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
                return None
            total += memory.used
        return total


@contextmanager
def nvml() -> Iterator[Driver | None]:
    """The driver's library, open; `None` where there is none or it finds no driver."""
    library = None
    with contextlib.suppress(OSError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
    if library is None or library.nvmlInit_v2():
        yield None
        return
    try:
        yield Driver(library)
    finally:
        library.nvmlShutdown()
