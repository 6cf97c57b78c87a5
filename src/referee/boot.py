"""This boot of this machine: by its name it is told whether what was noted before is still there."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> str:
    """Names this boot of this machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
