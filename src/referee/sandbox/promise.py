"""One promise of the sandbox, and whether it was shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise of the sandbox on this machine: whether it was shown, and what was seen."""

    name: str
    held: bool
    seen: str
    mend: str = ""
