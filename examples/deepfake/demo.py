"""The example challenge from end to end, as an operator would type it; `make demo` runs this.

Every step is a `referee` command that is printed before it runs. It leaves the challenge in demo/, and can be
repeated: what is done already is not done again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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


def answer(*arguments: str) -> Any:
    """What a command says to a script."""
    print(f"$ referee {' '.join(arguments)} --json", flush=True)
    found = subprocess.run([REFEREE, *arguments, "--json"], cwd=DEMO, check=True, stdout=subprocess.PIPE)
    return json.loads(found.stdout)


def rule_on_a_copy() -> None:
    """Disqualify the later of two submissions that are one image; a repeated demo finds it done."""
    alike = answer("analyse", "--phase", "private_test")["look_alikes"]
    for pair in alike:
        if pair["likeness"] == "identical_image":
            referee("ruling", "disqualify", pair["other"], "--reason", "The image of another team, digest for digest.")
    referee("ruling", "list")


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
    step("Binding ourselves before anything is scored: this line is for third parties")
    anchor = answer("bundle", "--anchor")["anchor"]
    print(anchor)
    step("The public phase again: does what was recorded there reproduce?")
    referee("run", "public_test")
    referee("score", "--phase", "public_test")
    referee("reproduce", "--phase", "public_test")
    step("A pilot on the private phase, and the plan that follows from it")
    referee("pilot", "--phase", "private_test", "--count", "6")
    referee("plan", "--phase", "private_test", "--deadline", "1h")
    referee("run", "--plan", "plan.json", "--yes")
    referee("status")
    step("Scores, and what they are worth")
    referee("score")
    referee("analyse", "--phase", "private_test")
    step("A ruling: the operator looks at two that are alike, and decides")
    rule_on_a_copy()
    referee("leaderboard", "--phase", "private_test")
    step("The report, and a bundle from which anyone can check the board")
    referee("report")
    referee("bundle", "deepfake.bundle.tar")
    referee("verify", "deepfake.bundle.tar", "--anchor", anchor, "--labels", "labels/private_test.csv")
    step(f"Done in {time.monotonic() - began:.0f} s. Look at demo/report.html, or go on by hand:")
    print("cd demo && ../.venv/bin/referee leaderboard")
    print("cd demo && ../.venv/bin/referee show SUBMISSION       # with a blind id from the board")
    print("cd demo && ../.venv/bin/referee try oci:images/NAME   # what a participant does at home")


if __name__ == "__main__":
    main()
