"""One promise of the sandbox, and whether it was shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise of the sandbox on this machine: whether it was shown, and what was seen.

    `applies` is false where the isolation level does not make this promise; `seen` then says why it needs none.
    """

    name: str
    held: bool
    seen: str
    mend: str = ""
    applies: bool = True
