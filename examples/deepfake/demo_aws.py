"""The example challenge on the engine `aws-batch` while spot machines are taken back; `make demo-aws`.

No call leaves this machine: AWS Batch and its machines are the tests' STAND-IN, everything else of AWS is moto's. What
is real is the engine over boto3 and HTTP, the template's stack as far as moto makes it, the bucket's API, the workers
and their sandboxes. At the end the board is compared with that of the engine `local`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo_slurm import DEMO, PHASE, REFEREE, ROOT, local_board, outcomes, step

from batch_stand_in import REGION, BatchStandIn, Host, Kind, serving
from batch_world import deploy

STACK = "referee-demo"
RECLAIMS = 2
ADDED = """
[engine]
name = "aws-batch"
[engine.aws]
stack = "referee-demo"
listen = "1s"
look = "5s"
[machines."c5.large"]
cpus = 2
memory = "4GiB"
price = "0.034"  # of spot capacity
count = 2
reference = true
"""


def referee(folder: Path, *arguments: str) -> None:
    print(f"$ referee {' '.join(arguments)}", flush=True)
    subprocess.run([REFEREE, *arguments], cwd=folder, check=True)


def answer(folder: Path, *arguments: str) -> Any:
    words = [REFEREE, *arguments]
    return subprocess.run(words, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def challenge_on_aws(source: Path, folder: Path) -> None:
    """The challenge's files, with another engine."""
    shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns(".referee", "*.bundle.tar", "*.html"))
    text = (source / "challenge.toml").read_text(encoding="utf-8").partition("[engine]")[0]
    (folder / "challenge.toml").write_text(text + ADDED, encoding="utf-8")


def take_machines_back(batch: BatchStandIn, run: subprocess.Popen[bytes]) -> list[Host]:
    """While the campaign runs, EC2 wants spot machines back on which attempts run."""
    taken: list[Host] = []
    before = _ended(batch)
    while run.poll() is None:
        ended = _ended(batch) - before
        busy = [host for host in batch.living_hosts() if host.jobs and host not in taken]
        running = [host for host in busy if any(batch.jobs[job].status == "RUNNING" for job in list(host.jobs))]
        if len(taken) < RECLAIMS and running and ended >= 3 * (len(taken) + 1):
            print(f"EC2 takes {running[0].id} back: {len(running[0].jobs)} attempts run there.", flush=True)
            batch.reclaim(running[0])
            taken.append(running[0])
        time.sleep(0.1)
    return taken


def _ended(batch: BatchStandIn) -> int:
    return sum(job.status == "SUCCEEDED" for job in list(batch.jobs.values()))


def main() -> None:
    began = time.monotonic()
    source = Path(sys.argv[1]).absolute() if sys.argv[1:] else DEMO
    step("Building the example (cached in .cache/)")
    build = [sys.executable, str(Path(__file__).with_name("build.py"))]
    subprocess.run([*build, "--into", str(source), "--cache", str(ROOT / ".cache")], check=True)
    with tempfile.TemporaryDirectory(prefix="referee-demo-aws-") as place:
        folder = Path(place) / "challenge"
        challenge_on_aws(source, folder)
        step("Starting a stand-in for AWS Batch on loopback; the rest of AWS is moto's")
        queues = {f"{STACK}-c5-large": Kind(vcpus=1, registered_mib=3600, most=2)}
        batch = BatchStandIn(Path(place) / "hosts", queues, notice_seconds=20.0, idle_seconds=5.0)
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}
        with serving(batch) as url:
            os.environ.update(keys | {"AWS_ENDPOINT_URL": url})
            step("The stack of the template")
            deploy(folder, batch, url, print)
            step("Importing the submissions, into the bucket")
            referee(folder, "submissions", "import", "submissions.csv")
            step("The campaign, while spot machines are taken back")
            referee(folder, "pilot", "--phase", PHASE, "--count", "4")
            referee(folder, "plan", "--phase", PHASE, "--deadline", "1h")
            run = subprocess.Popen([REFEREE, "run", "--plan", "plan.json", "--yes"], cwd=folder)
            taken = take_machines_back(batch, run)
            if run.wait() or len(taken) < RECLAIMS:
                raise SystemExit(f"The campaign ended with {run.returncode}, {len(taken)} machines were taken back.")
            referee(folder, "score", "--phase", PHASE)
            referee(folder, "leaderboard", "--phase", PHASE)
            referee(folder, "cloud", "status", "--wait")
            referee(folder, "cloud", "bill")
            mine = json.loads(answer(folder, "leaderboard", "--phase", PHASE, "--unblind", "--json"))
            events = [json.loads(line) for line in answer(folder, "ledger", "events", "--json").splitlines()]
        for name in ("AWS_ENDPOINT_URL", *keys):
            del os.environ[name]
        ends = [event["payload"]["verdict"] for event in events if event["kind"] == "attempt.ended"]
        lost = sum(end in {"node_lost", "interrupted"} for end in ends)
        print(f"{len(ends)} attempts, of which {lost} ended with their machine; calls: {dict(batch.calls)}")
        step("The same challenge on this machine alone")
        local = local_board(source, Path(place) / "local")
    ours, theirs = outcomes(mine), outcomes(local)
    ruled = {row["name"] for row in local["ruled"]}
    differing = {name for name in {*ours, *theirs} - ruled if ours.get(name) != theirs.get(name)}
    if differing:
        raise SystemExit(f"The boards differ: { {name: (ours.get(name), theirs.get(name)) for name in differing} }")
    same = f"all {len({*ours} - ruled)} scores and verdicts are those of the engine `local`"
    step(f"Done in {time.monotonic() - began:.0f} s: {same}. AWS was a stand-in.")


if __name__ == "__main__":
    main()
