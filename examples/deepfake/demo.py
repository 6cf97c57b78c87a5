"""The example challenge from end to end, as an operator would type it; `make demo` runs this.

Every step is a `referee` command that is printed before it runs. It leaves the challenge in demo/, and can be
repeated: what is done already is not done again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
REFEREE = Path(sys.executable).with_name("referee")


def step(title: str) -> None:
    print(f"\n\033[1m== {title}\033[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)


def referee(*arguments: str, may_fail: bool = False) -> None:
    print(f"$ referee {' '.join(arguments)}", flush=True)
    status = subprocess.run([REFEREE, *arguments], cwd=DEMO, check=False).returncode
    if status and not may_fail:
        raise SystemExit(f"`referee {' '.join(arguments)}` ended with status {status}.")


def main() -> None:
    began = time.monotonic()
    if "--fresh" in sys.argv:
        shutil.rmtree(DEMO, ignore_errors=True)
    step("Building the example: real video, real images (cached in .cache/)")
    build = [
        sys.executable,
        str(Path(__file__).with_name("build.py")),
        "--into",
        str(DEMO),
        "--cache",
        str(ROOT / ".cache"),
    ]
    subprocess.run(build, check=True)
    step("What this machine can do, and the proof of its sandbox")
    referee("doctor")
    step("Importing the submissions, pinned by digest, under blind ids")
    referee("submissions", "import", "submissions.csv")
    referee("submissions", "list")
    step("Evaluating on the public phase, then on the private one")
    referee("run", "--phase", "public_test")
    referee("run", "--phase", "private_test")
    referee("status")
    step("Scores and leaderboards")
    referee("score")
    referee("leaderboard", "--phase", "private_test")
    referee("analyse", "--phase", "private_test")
    referee("report")
    referee("ledger", "verify")
    step(f"Done in {time.monotonic() - began:.0f} s. Look at demo/report.html, or go on by hand:")
    print("cd demo && ../.venv/bin/referee leaderboard")
    print("cd demo && ../.venv/bin/referee show SUBMISSION       # with a blind id from the board")
    print("cd demo && ../.venv/bin/referee try oci:images/NAME   # what a participant does at home")


if __name__ == "__main__":
    main()
