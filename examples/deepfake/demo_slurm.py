"""The example challenge on a Slurm cluster of four nodes, by an ordinary user, while a node is lost; `make demo-slurm`.

The cluster is a real one, the one that the tests use: munge, slurmctld and four slurmd on this machine. At the end the
board is compared with that of the engine `local`: with that of `make demo`, where it lies in demo/, else with one that
is made now. A challenge's folder may be given as an argument; it is taken as it lies.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
REFEREE = Path(sys.executable).with_name("referee")
PHASE = "private_test"
# Most of the example's submissions take less; one hangs until its limit of time.
MIDST_SECONDS = 4
sys.path.insert(0, str(ROOT / "tests"))

from slurm_cluster import missing_programs, running_cluster  # noqa: E402 - found by the line above
from slurm_world import Operator, operator  # noqa: E402 - the same


def step(title: str) -> None:
    print(f"\n\033[1m== {title}\033[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)


def referee(user: Operator, *arguments: str) -> None:
    print(f"nobody$ referee {' '.join(arguments)}", flush=True)
    print(user.referee(*arguments), end="", flush=True)


def outcomes(board: Any) -> dict[str, Any]:
    """What became of each submission that nobody ruled on, by name: its score, or its verdict."""
    found = {row["name"]: row["score"] for row in board["rows"]}
    return found | {row["name"]: row["verdict"] for row in board["unscored"]}


def local_board(source: Path, folder: Path) -> Any:
    """The board of the engine `local`: the demo's own, or one that is made now."""
    shutil.copytree(source, folder, symlinks=True)
    if not (source / ".referee" / "ledger.sqlite").exists():
        subprocess.run([REFEREE, "submissions", "import", "submissions.csv"], cwd=folder, check=True)
    subprocess.run([REFEREE, "run", PHASE], cwd=folder, check=True)
    subprocess.run([REFEREE, "score", "--phase", PHASE], cwd=folder, check=True)
    words = [REFEREE, "leaderboard", "--phase", PHASE, "--unblind", "--json"]
    return json.loads(subprocess.run(words, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)


def lose_a_node(user: Operator, run: subprocess.Popen[bytes]) -> str:
    """Wait until an attempt is in the midst of its work, then take its node away with all that is on it."""
    while run.poll() is None:
        jobs = user.cluster.command("squeue", "--states=RUNNING", "-h", "-o", "%N %M").splitlines()
        for node, used in (job.split() for job in jobs):
            minutes, seconds = used.split(":")[-2:]
            if 60 * int(minutes) + int(seconds) >= MIDST_SECONDS:
                print(user.cluster.jobs(), flush=True)
                user.cluster.lose_node(node)
                return node
        time.sleep(0.1)
    raise SystemExit(f"The campaign ended before a node could be lost:\n{user.said()}")


def main() -> None:
    if missing := missing_programs():
        raise SystemExit(f"Slurm is not installed ({', '.join(missing)} missing). Type: scripts/system-packages")
    began = time.monotonic()
    source = Path(sys.argv[1]).absolute() if sys.argv[1:] else DEMO
    if source == DEMO:
        step("Building the example (cached in .cache/)")
        build = [sys.executable, str(Path(__file__).with_name("build.py"))]
        subprocess.run([*build, "--into", str(source), "--cache", str(ROOT / ".cache")], check=True)
    step("Starting a Slurm cluster of four nodes on this machine")
    with running_cluster(4, cpus=1) as cluster, operator(cluster, source, staging="30m") as user:
        print(cluster.command("sinfo", "-N", "-l"))
        step("What the cluster can do")
        referee(user, "doctor")
        step("Importing the submissions, into the folder that the nodes share")
        referee(user, "submissions", "import", "submissions.csv")
        step("The campaign, while a node is lost")
        run = user.start("run", PHASE)
        lost = lose_a_node(user, run)
        print(f"The node {lost} is gone.", flush=True)
        if run.wait():
            raise SystemExit(f"The campaign ended with status {run.returncode}:\n{user.said()}")
        print(user.said(), flush=True)
        referee(user, "score", "--phase", PHASE)
        referee(user, "leaderboard", "--phase", PHASE)
        mine = json.loads(user.referee("leaderboard", "--phase", PHASE, "--unblind", "--json"))
        attempts = [json.loads(line) for line in user.referee("ledger", "events", "--json").splitlines()]
        ends = [event["payload"]["verdict"] for event in attempts if event["kind"] == "attempt.ended"]
        gone = sum(end in {"node_lost", "interrupted"} for end in ends)
        print(f"{len(ends)} attempts, of which {gone} were lost.")
        if not gone:
            raise SystemExit("No attempt was lost with the node, so nothing was shown.")
    step("The same challenge on this machine alone")
    with tempfile.TemporaryDirectory() as folder:
        local = local_board(source, Path(folder) / "demo")
    ruled = {row["name"] for row in (*local["ruled"], *mine["ruled"])}
    ours, theirs = (
        {name: end for name, end in outcomes(board).items() if name not in ruled} for board in (mine, local)
    )
    differing = {
        name: (ours.get(name), theirs.get(name)) for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)
    }
    if differing:
        raise SystemExit(f"The boards differ: {differing}")
    same = f"all {len(ours)} scores and verdicts are those of the engine `local`"
    step(f"Done in {time.monotonic() - began:.0f} s: {same}.")


if __name__ == "__main__":
    main()
