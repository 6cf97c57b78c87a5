"""The engine `local` under fire: real containers on this machine, through the command line.

The controller, workers and the launcher are killed, the controller is frozen, told to stop or started twice, another
program locks the ledger, and the disk of the node's folder is full for a while.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from board_world import REFEREE, SUBMISSIONS, copy_challenge, leftovers, make_challenge, referee
from faults.findings import Findings, content, findings
from faults.judgement import Evidence
from faults.storm import PHASE, Pressed, until_it_ends
from faults.witness import Witness
from referee.errors import ConflictError
from referee.worker.lock import attempts_on, read_holder
from referee.workspace import Workspace

_CONFLICT = ConflictError.exit_code
_TWICE_SECONDS = 60.0
_DISK_BYTES = 64 << 20
# Those whose verdict does not depend on how busy the machine is.
FEW = {
    name: SUBMISSIONS[name]
    for name in ("half", "good", "better", "sure", "slow", "exits", "endless", "eats memory", "nan", "no answer")
}


class Controller:
    """Faults of the controller's process; the same wherever attempts run.

    Args:
        again: starts a second controller on the same challenge.
        ledger: the file of the challenge's ledger.
        chance: for how long, and how soon.
    """

    def __init__(
        self, again: Callable[[], subprocess.Popen[bytes]], ledger: Callable[[], Path], chance: random.Random
    ) -> None:
        self._again, self._ledger, self._chance = again, ledger, chance
        self.run: subprocess.Popen[bytes] | None = None

    def strikes(self) -> dict[str, Callable[[], bool]]:
        """What can be done to it."""
        return {
            "controller killed": lambda: self._signal(signal.SIGKILL),
            "controller told to stop": lambda: self._signal(signal.SIGTERM),
            "controller frozen for a while": self._freeze,
            "second controller started": self._second,
            "ledger locked by another program": self._lock_ledger,
        }

    def _lives(self) -> bool:
        return self.run is not None and self.run.poll() is None

    def _signal(self, number: signal.Signals) -> bool:
        if not self._lives():
            return False
        assert self.run is not None
        self.run.send_signal(number)
        return True

    def _freeze(self) -> bool:
        if not self._signal(signal.SIGSTOP):
            return False
        time.sleep(self._chance.uniform(0.5, 4.0))
        return self._signal(signal.SIGCONT)

    def _second(self) -> bool:
        """It is refused, or the first one had ended."""
        if not self._lives():
            return False
        second = self._again()
        try:
            return second.wait(_TWICE_SECONDS) == _CONFLICT
        except subprocess.TimeoutExpired:
            second.kill()
            second.wait()
            return False

    def _lock_ledger(self) -> bool:
        lock_ledger(self._ledger(), self._chance.uniform(0.2, 3.0)).join()
        return True


def lock_ledger(place: Path, seconds: float) -> threading.Thread:
    """Hold the write lock of a ledger's file, as another program could; the thread lets go."""
    other = sqlite3.connect(place, isolation_level=None, check_same_thread=False, timeout=5.0)
    with contextlib.suppress(sqlite3.OperationalError):  # somebody else held it just then, for five seconds
        other.execute("BEGIN IMMEDIATE")

    def let_go() -> None:
        time.sleep(seconds)
        other.close()

    thread = threading.Thread(target=let_go)
    thread.start()
    return thread


class MachineArena:
    """See the module."""

    name = "local"
    each = 6

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._imported = make_challenge(folder / "imported", FEW)
        calm_down(self._imported)
        referee(self._imported, "submissions", "import", "submissions.csv")
        referee(self._imported, "doctor")  # the proof of this machine's sandbox is not what breaks here
        calm = copy_challenge(self._imported, folder / "calm")
        referee(calm, "run", PHASE)
        self._calm: Findings = findings(Workspace.open(calm), lambda *words: referee(calm, *words))
        self.kinds = tuple(_Machine(self._imported, random.Random(0)).strikes())  # noqa: S311 - asked for names

    def campaign(self, number: int, faults: Sequence[str], chance: random.Random) -> tuple[Counter[str], Evidence]:
        """A campaign of ten submissions."""
        folder = copy_challenge(self._imported, self._folder / f"campaign-{number}")
        machine = _Machine(folder, chance)
        pressed = Pressed(faults, machine.strikes())

        def press(run: subprocess.Popen[bytes]) -> None:
            machine.controller.run = run
            pressed.press()

        pauses = iter(lambda: chance.uniform(0.3, 2.5), None)
        with machine.small_disk(), Witness(lambda: [machine.node]) as witness:
            odd = until_it_ends(
                machine.start, lambda: referee(folder, "resume"), press, pauses, lambda: content(Workspace.open(folder))
            )
            left = witness.left()
        left += [f"{what}: {each}" for what, all_of in _left(folder).items() for each in all_of]
        if odd:
            odd.append((folder / "run.log").read_text(errors="replace")[-2000:])
        found = findings(Workspace.open(folder), lambda *words: referee(folder, *words))
        return pressed.struck, Evidence(
            calm=self._calm.verdicts, verdicts=found.verdicts, events=found.events, claims=found.claims,
            results=found.results, executed=witness.executed(), board=found.board, calm_board=self._calm.board,
            charges=witness.charges(found.attempts), left=left, odd=odd,
        )  # fmt: skip


def calm_down(folder: Path) -> None:
    """A busy machine may not make a time limit of what is none."""
    text = (folder / "challenge.toml").read_text(encoding="utf-8")
    (folder / "challenge.toml").write_text(text.replace('"3s"', '"8s"'), encoding="utf-8")


def _left(folder: Path) -> dict[str, list[str]]:
    deadline = time.monotonic() + 30
    while any((found := leftovers(folder)).values()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return {what: found[what] for what in ("processes", "mounts", "temporary folders")}


class _Machine:
    """This machine, with one challenge on it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder, self._chance = folder, chance
        self.node = folder / ".referee" / "node"
        self.controller = Controller(self.start, lambda: folder / ".referee" / "ledger.sqlite", chance)

    def start(self) -> subprocess.Popen[bytes]:
        """A controller, whose words go to a file."""
        with (self._folder / "run.log").open("ab") as log:
            return subprocess.Popen([REFEREE, "run", PHASE], cwd=self._folder, stdout=log, stderr=log)

    def strikes(self) -> dict[str, Callable[[], bool]]:
        """What can be done to it."""
        return self.controller.strikes() | {
            "worker killed": lambda: self._kill_worker(inner=False),
            "worker's inner process killed": lambda: self._kill_worker(inner=True),
            "launcher killed": self._kill_launcher,
            "disk of the node full": self._fill_disk,
        }

    @contextlib.contextmanager
    def small_disk(self) -> Iterator[None]:
        """The node's folder is a file system of its own, so that it alone can be full."""
        aside = self.node.with_name("node-aside")
        self.node.rename(aside)
        self.node.mkdir(mode=0o700)
        size = f"size={_DISK_BYTES},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "referee-chaos", self.node], check=True)
        try:
            shutil.copytree(aside, self.node, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(aside)
            yield
        finally:
            subprocess.run(["umount", self.node], check=True)

    def _fill_disk(self) -> bool:
        filling = self.node / "filling"
        with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # until there is no room
            while True:
                file.write(bytes(1 << 16))
        time.sleep(self._chance.uniform(0.5, 3.0))
        filling.unlink()
        return True

    def _kill_worker(self, *, inner: bool) -> bool:
        holders = [holder for name in attempts_on(self.node) if (holder := read_holder(self.node, name)) is not None]
        if not holders:
            return False
        pid = self._chance.choice(holders).pid
        victims = _children(pid) if inner else [pid]
        return sum(_kill(victim) for victim in victims) > 0

    def _kill_launcher(self) -> bool:
        run = self.controller.run
        words = {pid: _command(pid) for pid in (_children(run.pid) if run is not None else [])}
        return sum(_kill(pid) for pid, command in words.items() if b"referee.engines.launcher" in command) > 0


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def arena(folder: Path) -> Iterator[MachineArena]:
    """The arena."""
    folder.mkdir()
    yield MachineArena(folder)
