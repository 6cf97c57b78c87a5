"""What a run used, beside what it was allowed to use."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from referee.attempts import Measurements
from referee.challenge import Limits


class Used(Protocol):
    """What the sandbox measured, from outside the container. Sizes in bytes, times in seconds."""

    @property
    def wall_seconds(self) -> float: ...
    @property
    def cpu_seconds(self) -> float: ...
    @property
    def start_seconds(self) -> float: ...
    @property
    def peak_memory_bytes(self) -> int: ...
    @property
    def memory_limit_bytes(self) -> int: ...
    @property
    def oom_kills(self) -> int: ...
    @property
    def pids_peak(self) -> int | None: ...
    @property
    def pids_refused(self) -> int: ...
    @property
    def output_bytes(self) -> int: ...
    @property
    def output_files(self) -> int: ...
    @property
    def log_bytes(self) -> int: ...
    @property
    def gpu_peak_memory_bytes(self) -> int | None: ...


def measurements(used: Used, limits: Limits, wall_time_scale: float, preparation: timedelta) -> Measurements:
    """The record of a run, with the limit that it came nearest to.

    The log is not among the limits compared: what exceeds it is thrown away, and costs a submission nothing.

    Args:
        used: what was measured.
        limits: what was allowed, on the reference machine type.
        wall_time_scale: factor on `limits.wall_time` on this machine.
        preparation: time from the worker's start to the container's, less the container's own start.
    """
    shares = {
        "wall_time": used.wall_seconds / (limits.wall_time.total_seconds() * wall_time_scale),
        "memory": used.peak_memory_bytes / used.memory_limit_bytes,
        "output": used.output_bytes / limits.output,
        "output_files": used.output_files / limits.output_files,
    }
    if used.pids_peak is not None:
        shares["pids"] = used.pids_peak / limits.pids
    if used.pids_refused > 0:
        shares["pids"] = max(1.0, shares.get("pids", 1.0))
    nearest = max(shares, key=lambda name: shares[name])
    return Measurements(
        wall_seconds=used.wall_seconds,
        cpu_seconds=used.cpu_seconds,
        peak_memory_bytes=used.peak_memory_bytes,
        preparation_seconds=preparation.total_seconds() + used.start_seconds,
        oom_kills=used.oom_kills,
        pids_peak=used.pids_peak,
        pids_refused=used.pids_refused,
        output_bytes=used.output_bytes,
        output_files=used.output_files,
        log_bytes=used.log_bytes,
        gpu_peak_memory_bytes=used.gpu_peak_memory_bytes,
        nearest_limit=nearest,
        nearest_limit_share=min(1.0, shares[nearest]),  # whoever is ended at a limit is a moment above it
    )
