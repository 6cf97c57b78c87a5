"""Campaigns on a real Slurm while things break at random: how many faults, and what they did to the board.

`python benchmarks/slurm_fire.py --faults 60`. Each round evaluates the same submissions from the same imported state,
with faults at random moments, and is compared with an undisturbed one on the engine `local`: the same board, nothing
that ended twice, nothing left on the machine. The controller is restarted, and dispatch resumed, as an operator would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from board_world import SUBMISSIONS, cgroups_of_referee, make_challenge, referee  # noqa: E402 - found by the line above
from slurm_world import UID, Cluster, Operator, SlurmError, operator, running_cluster  # noqa: E402 - the same

PHASE = "private_test"
RESULTS = ROOT / "benchmarks" / "results" / "slurm_fire.json"


class Fire:
    """The faults. Each leaves the cluster able to work."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster, self._chance = cluster, chance
        self.user: Operator | None = None
        self.run: subprocess.Popen[bytes] | None = None
        self.kinds: dict[str, Callable[[], bool]] = {
            "node lost with everything on it": self._lose_node,
            "slurmd killed and started": self._kill_slurmd,
            "slurmctld away for a while": self._restart_controller,
            "node drained": self._drain,
            "job cancelled by an administrator": self._cancel,
            "job preempted": self._preempt,
            "controller killed": self._kill_run,
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

    def _kill_run(self) -> bool:
        if self.run is None or self.run.poll() is not None:
            return False
        self.run.send_signal(signal.SIGKILL)
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


def round_of_faults(user: Operator, fire: Fire, chance: random.Random, faults: int) -> Counter[str]:
    """One campaign, with so many faults while it runs; how often each happened."""
    done: Counter[str] = Counter()
    while True:
        fire.user, fire.run = user, user.start("run", PHASE)
        while fire.run.poll() is None:
            try:
                fire.run.wait(chance.uniform(0.3, 3.0))
            except subprocess.TimeoutExpired:
                if sum(done.values()) < faults:
                    kind = chance.choice(sorted(fire.kinds))
                    with contextlib.suppress(SlurmError, subprocess.TimeoutExpired):
                        done[kind] += fire.kinds[kind]()
        if fire.run.returncode == 0:
            return done
        if fire.run.returncode > 0:  # a quarantine or the breaker: the operator has a look, and lets it go on
            user.referee("resume", "--reason", "It was us.", status=None)


def wrongs(user: Operator, calm: str) -> list[str]:
    """What went wrong in a round that has ended."""
    user.referee("score", "--phase", PHASE)
    user.referee("ledger", "verify")
    found = [] if user.referee("leaderboard", "--phase", PHASE, "--json") == calm else ["another board"]
    events = [json.loads(line) for line in user.referee("ledger", "events", "--json").splitlines()]
    for kind, key in (("attempt.ended", "attempt"), ("evaluation.scored", "evaluation")):
        names = [event["payload"][key] for event in events if event["kind"] == kind]
        found += [f"{name}: {kind} twice" for name, times in Counter(names).items() if times > 1]
    deadline = time.monotonic() + 30
    while (left := _left(user)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found + left


def _left(user: Operator) -> list[str]:
    groups = [group for group in cgroups_of_referee() if any(f"slurm_{node}/" in group for node in user.cluster.nodes)]
    runs = [str(path) for path in (user.folder.parent / "node" / "cache").glob("*/run/*")]
    return groups + runs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--each", type=int, default=6, help="faults in each campaign")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    chance = random.Random(given.seed)  # noqa: S311 - which fault comes next, not a secret
    done: Counter[str] = Counter()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name, running_cluster(4, cpus=1) as cluster:
        folder = Path(name)
        challenge = make_challenge(folder / "challenge", dict(list(SUBMISSIONS.items())[:10]))
        text = (challenge / "challenge.toml").read_text(encoding="utf-8")
        # A busy machine may not make a time limit of what is none; what breaks here is Slurm.
        (challenge / "challenge.toml").write_text(text.replace('"3s"', '"10s"'), encoding="utf-8")
        with operator(cluster, challenge) as user:
            user.referee("submissions", "import", "submissions.csv")
            shutil.copytree(user.folder / ".referee", folder / "saved" / "state")
            shutil.copytree(user.shared / "objects", folder / "saved" / "objects")
            calm = undisturbed(user, folder / "calm")
            fire = Fire(cluster, chance)
            rounds = 0
            while done.total() < given.faults:
                restore(user, folder / "saved")
                done += round_of_faults(user, fire, chance, given.each)
                found += wrongs(user, calm)
                rounds += 1
                print(f"{rounds} campaigns, {done.total()} faults, wrong: {found or 'nothing'}", flush=True)
                cluster.wait_until_up()
    facts = {"seed": given.seed, "campaigns": rounds, "faults": dict(sorted(done.items())), "wrong": found}
    RESULTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{done.total()} faults of {len(done)} kinds in {rounds} campaigns on Slurm; wrong: {found or 'nothing'}.")
    raise SystemExit(1 if found else 0)


def undisturbed(user: Operator, folder: Path) -> str:
    """The board of the same challenge, in the very same state, on the engine `local`."""
    shutil.copytree(user.folder, folder)
    shutil.copytree(user.shared / "objects", folder / ".referee" / "objects")
    text = (folder / "challenge.toml").read_text().partition("[engine]")[0]
    (folder / "challenge.toml").write_text(f"{text}[engine]\nslots = 2\n")
    referee(folder, "run", PHASE)
    referee(folder, "score", "--phase", PHASE)
    return referee(folder, "leaderboard", "--phase", PHASE, "--json")


if __name__ == "__main__":
    main()
