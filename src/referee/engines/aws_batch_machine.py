"""A machine's own memory of what ran on it, and its end by its own hand.

Batch cannot be told to avoid a machine, nor to give one away after a job: whoever wants a machine gone has to end it.
The controller does so when it sees a reason; but a machine that goes wrong has taken its next job by then. So each job
looks at what ran here before it, and the last one on a machine that is to be gone switches it off, from inside: no
permission and no way to EC2's interface is needed for that, and a machine that was switched off is not paid for.
While it is switched off its job still has it, so that nothing else begins there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from referee.policy import Outcome, node_health
from referee.verdicts import Verdict
from referee.worker.lock import attempts_on, is_held

POWER = Path(
    "/proc/sysrq-trigger"
)  # proc(5): `o` switches the machine off; root may write it in a privileged container

_OUTCOMES, _LEAVING = "outcomes", "leaving"
_LOOK_SECONDS = 1.0
_LOG_SECONDS = 2.0  # for what was printed to be sent
_END_SECONDS = 600.0
_HERE = "here"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that a job runs on.

    Attributes:
        folder: its own folder, which outlives jobs but not the machine.
        power: where it is switched off.
        pause: sleeps.
    """

    folder: Path
    power: Path = POWER
    pause: Callable[[float], None] = time.sleep

    @property
    def leaving(self) -> str:
        """Why the machine is to be gone; empty if it is not."""
        try:
            return (self.folder / _LEAVING).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def will_leave(self, why: str) -> None:
        """From now on nothing is begun here."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._append(_LEAVING, why)

    def note(self, evaluation: str, verdict: Verdict) -> None:
        """An attempt has ended here; two host faults in a row, of two evaluations, and the machine is to be gone."""
        self._append(_OUTCOMES, f"{evaluation} {verdict}")
        lines = (self.folder / _OUTCOMES).read_text(encoding="utf-8").splitlines()
        rows = (line.split(" ") for line in lines)
        outcomes = [Outcome(row[0], Verdict(row[1]), _HERE) for row in rows if len(row) == 2]
        if node_health(outcomes).get(_HERE) is not None and node_health(outcomes)[_HERE].quarantine:
            self.will_leave("Two host faults in a row, of different evaluations.")

    def leave(self) -> None:
        """Switch the machine off as soon as no worker lives on it; returns if that did not end it."""
        while any(is_held(self.folder, attempt) for attempt in attempts_on(self.folder)):
            self.pause(_LOOK_SECONDS)
        self.pause(_LOG_SECONDS)
        os.sync()
        with contextlib.suppress(OSError):  # what cannot be switched off begins nothing more, all the same
            self.power.write_text("o", encoding="ascii")
            self.pause(_END_SECONDS)

    def _append(self, name: str, line: str) -> None:
        # One write at the file's end: jobs side by side do not tear each other's lines.
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
