"""A campaign on a real Slurm, through the command line, by an ordinary user, while things break."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from board_world import SUBMISSIONS, cgroups_of_referee, make_challenge, referee
from slurm_cluster import SlurmError, running_cluster
from slurm_world import Operator, operator

pytestmark = pytest.mark.containers

# Those whose verdict does not depend on how busy the machine is.
FEW = {name: SUBMISSIONS[name] for name in ("half", "good", "better", "exits", "endless", "eats memory", "nan")}


def undisturbed(user: Operator, folder: Path) -> str:
    """The board of the same challenge, in the very same state, on the engine `local`."""
    shutil.copytree(user.folder, folder)
    shutil.copytree(user.shared / "objects", folder / ".referee" / "objects")
    text = (folder / "challenge.toml").read_text().partition("[engine]")[0]
    (folder / "challenge.toml").write_text(f"{text}[engine]\nslots = 2\n")
    referee(folder, "run", "--phase", "private_test")
    referee(folder, "score")
    return referee(folder, "leaderboard", "--json")


def running(user: Operator) -> list[tuple[str, str]]:
    """Handle and node of what runs now."""
    lines = user.cluster.command("squeue", "--array", "--states=RUNNING", "-h", "-o", "%i %N").splitlines()
    return [(handle, node) for handle, node in (line.split() for line in lines)]


def wait_until_something_runs(user: Operator) -> list[tuple[str, str]]:
    deadline = time.monotonic() + 60
    while not (found := running(user)):
        assert time.monotonic() < deadline, user.said()
        time.sleep(0.05)
    return found


def ended(user: Operator) -> int:
    status = json.loads(user.referee("status", "--phase", "private_test", "--json"))
    return int(status["done"])


@pytest.mark.timeout(600)
def test_the_board_of_a_campaign_under_fire_is_that_of_an_undisturbed_one(tmp_path: Path) -> None:
    with running_cluster(4, cpus=1) as cluster, operator(cluster, make_challenge(tmp_path / "challenge", FEW)) as user:
        checks = json.loads(user.referee("doctor", "--json"))["checks"]
        assert {check["status"] for check in checks} == {"ok"}, checks
        user.referee("submissions", "import", "submissions.csv")
        calm = undisturbed(user, tmp_path / "calm")

        run = user.start("run", "--phase", "private_test")
        wait_until_something_runs(user)
        run.send_signal(signal.SIGKILL)  # the controller
        run.wait()
        run = user.start("run", "--phase", "private_test")
        handle, _ = wait_until_something_runs(user)[0]
        with contextlib.suppress(SlurmError):  # it may have ended by now
            cluster.command("scancel", handle, as_root=True)
        _, node = wait_until_something_runs(user)[-1]
        cluster.lose_node(node)
        cluster.stop_controller()
        cluster.start_controller()
        assert run.wait(timeout=300) == 0, user.said()

        user.referee("score")
        user.referee("ledger", "verify")
        assert user.referee("leaderboard", "--json") == calm
        events = [json.loads(line) for line in user.referee("ledger", "events", "--json").splitlines()]
        for kind, key in (("attempt.ended", "attempt"), ("evaluation.ended", "evaluation")):
            names = [event["payload"][key] for event in events if event["kind"] == kind]
            assert len(names) == len(set(names)), kind
        nodes = {event["payload"]["node"] for event in events if event["kind"] == "attempt.ended"}
        assert nodes <= {*cluster.nodes, None}
        assert "lost" in " ".join(event["payload"]["verdict"] for event in events if event["kind"] == "attempt.ended")
        assert running(user) == []
        assert _processes(str(user.folder.parent / "node" / "cache")) == []
        assert [
            group for group in cgroups_of_referee() if any(f"slurm_{node}/" in group for node in cluster.nodes)
        ] == []
        # What belongs to the operator alone never went where the nodes look.
        shared = [path.name for path in user.shared.rglob("*")]
        assert not any("labels" in name or "ledger" in name for name in shared)


def _processes(word: str) -> list[str]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = command.read_bytes().decode(errors="replace")
            if word in words:
                found.append(words)
    return found


def test_only_its_owner_can_look_into_what_the_nodes_share(tmp_path: Path) -> None:
    with running_cluster(1, cpus=1) as cluster, operator(cluster, make_challenge(tmp_path / "challenge", FEW)) as user:
        user.referee("submissions", "import", "submissions.csv")
        done = subprocess.run(
            ["ls", str(user.shared / "objects" / "images")],
            user=65533, group=65533, extra_groups=[], capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
