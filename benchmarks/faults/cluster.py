"""The engine `slurm` under fire: a real cluster of four nodes on this machine, real containers, an ordinary user.

Nodes are lost with everything on them, slurmd and slurmctld go away and come back, nodes are drained, jobs cancelled by
an administrator and preempted, the worker, the user's process and the controller killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from board_world import cgroups_of_referee, make_challenge, referee
from faults.findings import Findings, content, findings
from faults.judgement import Evidence
from faults.machine import FEW, Controller, calm_down
from faults.storm import PHASE, Pressed, until_it_ends
from faults.witness import Witness
from referee.workspace import Workspace
from slurm_cluster import UID, Cluster, SlurmError, running_cluster
from slurm_world import Operator, operator

_UP_SECONDS = 30.0


class ClusterArena:
    """See the module."""

    name = "slurm"
    each = 6

    def __init__(self, folder: Path, cluster: Cluster, user: Operator) -> None:
        self._folder, self._cluster, self._user = folder, cluster, user
        user.referee("submissions", "import", "submissions.csv")
        shutil.copytree(user.folder / ".referee", folder / "saved" / "state")
        shutil.copytree(user.shared / "objects", folder / "saved" / "objects")
        self._calm = undisturbed(user, folder / "calm")
        self.kinds = tuple(_Faults(cluster, user, random.Random(0)).strikes())  # noqa: S311 - asked for names

    def campaign(self, number: int, faults: Sequence[str], chance: random.Random) -> tuple[Counter[str], Evidence]:  # noqa: ARG002 - the seam's
        """A campaign of ten submissions."""
        user = self._user
        restore(user, self._folder / "saved")
        fire = _Faults(self._cluster, user, chance)
        pressed = Pressed(faults, fire.strikes())

        def press(run: subprocess.Popen[bytes]) -> None:
            fire.controller.run = run
            with contextlib.suppress(SlurmError, subprocess.TimeoutExpired):
                pressed.press()

        def resume() -> None:
            user.referee("resume", "--reason", "It was us.", status=None)

        pauses = iter(lambda: chance.uniform(0.3, 3.0), None)
        (user.folder.parent / "operator.log").write_text("")
        with Witness(lambda: (user.folder.parent / "node" / "cache").glob("*")) as witness:
            odd = until_it_ends(
                lambda: user.start("run", PHASE), resume, press, pauses, lambda: content(Workspace.open(user.folder))
            )
            left = witness.left() + self._groups_left()
        if odd:
            odd.append(user.said()[-2000:])
        found = findings(Workspace.open(user.folder), user.referee)
        with contextlib.suppress(SlurmError):
            self._cluster.wait_until_up()
        return pressed.struck, Evidence(
            calm=self._calm.verdicts, verdicts=found.verdicts, events=found.events, claims=found.claims,
            results=found.results, executed=witness.executed(), board=found.board, calm_board=self._calm.board,
            charges=witness.charges(found.attempts), left=left, odd=odd,
        )  # fmt: skip

    def _groups_left(self) -> list[str]:
        deadline = time.monotonic() + _UP_SECONDS
        while (found := self._groups()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def _groups(self) -> list[str]:
        names = [f"slurm_{node}/" for node in self._cluster.nodes]
        return [group for group in cgroups_of_referee() if any(name in group for name in names)]


class _Faults:
    """What can be done to a cluster. Each leaves it able to work."""

    def __init__(self, cluster: Cluster, user: Operator, chance: random.Random) -> None:
        self._cluster, self._chance = cluster, chance
        # The ledger's file is the user's: root may not make what belongs beside it, so nobody locks it here.
        self.controller = Controller(lambda: user.start("run", PHASE), Path, chance)

    def strikes(self) -> dict[str, Callable[[], bool]]:
        """By kind."""
        of_the_controller = self.controller.strikes()
        del of_the_controller["ledger locked by another program"]
        return of_the_controller | {
            "node lost with everything on it": self._lose_node,
            "slurmd killed and started": self._kill_slurmd,
            "slurmctld away for a while": self._restart_controller,
            "node drained": self._drain,
            "job cancelled by an administrator": self._cancel,
            "job preempted": self._preempt,
            "worker killed": lambda: self._kill(b"referee.worker.warden"),
            "user's process killed": lambda: self._kill(b"referee.worker.errand"),
        }

    def _node(self) -> str:
        return self._chance.choice(self._cluster.nodes)

    def _lose_node(self) -> bool:
        node = self._node()
        self._cluster.lose_node(node)
        time.sleep(self._chance.uniform(0, 8))
        self._cluster.start_node(node)
        return True

    def _kill_slurmd(self) -> bool:
        node = self._node()
        self._cluster.stop_daemon(node)
        time.sleep(self._chance.uniform(0, 3))
        self._cluster.start_node(node)
        return True

    def _restart_controller(self) -> bool:
        self._cluster.stop_controller()
        time.sleep(self._chance.uniform(0, 5))
        self._cluster.start_controller()
        return True

    def _drain(self) -> bool:
        node = self._node()
        self._cluster.command("scontrol", "update", f"nodename={node}", "state=drain", "reason=fire", as_root=True)
        time.sleep(self._chance.uniform(0, 4))
        self._cluster.command("scontrol", "update", f"nodename={node}", "state=resume", as_root=True)
        return True

    def _cancel(self) -> bool:
        handles = self._cluster.command("squeue", "--array", "-h", "-o", "%i", "--states=R,PD").split()
        if not handles:
            return False
        self._cluster.command("scancel", self._chance.choice(handles), as_root=True)
        return True

    def _preempt(self) -> bool:
        self._cluster.command(
            "sbatch", "--parsable", "--partition=first", f"--nodelist={self._node()}", "--exclusive",
            "--job-name=other", "--output=/dev/null", "--chdir=/", "--wrap", "sleep 1",
        )  # fmt: skip
        return True

    def _kill(self, word: bytes) -> bool:
        """Kill a process of a job of ours, of those whose command line has the word."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = any(f"slurm_{node}/" in (folder / "cgroup").read_text() for node in self._cluster.nodes)
                if ours and word in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(found), signal.SIGKILL)
        return True


def restore(user: Operator, saved: Path) -> None:
    """The state as it was imported."""
    for place, name in ((user.folder / ".referee", "state"), (user.shared / "objects", "objects")):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(saved / name, place)
        for path in (place, *place.rglob("*")):
            os.lchown(path, UID, UID)


def undisturbed(user: Operator, folder: Path) -> Findings:
    """The same challenge, in the very same state, on the engine `local`."""
    shutil.copytree(user.folder, folder)
    shutil.copytree(user.shared / "objects", folder / ".referee" / "objects")
    text = (folder / "challenge.toml").read_text().partition("[engine]")[0]
    (folder / "challenge.toml").write_text(f"{text}[engine]\nslots = 2\n")
    referee(folder, "run", PHASE)
    return findings(Workspace.open(folder), lambda *words: referee(folder, *words))


@contextlib.contextmanager
def arena(folder: Path) -> Iterator[ClusterArena]:
    """The arena, for as long as the context lasts."""
    folder.mkdir()
    challenge = make_challenge(folder / "challenge", FEW)
    calm_down(challenge)
    with running_cluster(4, cpus=1) as cluster, operator(cluster, challenge) as user:
        yield ClusterArena(folder, cluster, user)
