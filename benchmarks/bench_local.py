"""What Referee costs per attempt: trivial real containers through `referee run`, against bare `podman run`.

The floor is `xargs -P2` over `podman run` of the very same image with the same limits, mounts and command. Both run the
same number of containers, in turns, and the ratio is taken turn by turn, since the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REFEREE = Path(sys.executable).with_name("referee")
SIDE_BY_SIDE = 2
MEMORY = "256m"
PIDS = "64"
SCRIPT = "cp /data/answer.csv /output/submission.csv"

CHALLENGE = """
name = "bench-local"
finals_per_team = {count}
[phases.test]
data = "data"
labels = "labels.csv"
visibility = "private"
[limits]
wall_time = "30s"
memory = "256MiB"
pids = 64
scratch = "16MiB"
output = "1MiB"
[engine]
slots = {slots}
"""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def build_image(folder: Path, store: list[str]) -> None:
    """A busybox image: an OCI layout for Referee, and the same image in podman's own store."""
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    busybox = shutil.which("busybox") or "/bin/busybox"
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in ("sh", "cp"):
        (root / "bin" / applet).symlink_to("busybox")
    containerfile = folder / "Containerfile"
    containerfile.write_text(f'FROM scratch\nCOPY root /\nENTRYPOINT ["/bin/sh", "-c", "{SCRIPT}"]\n')
    run("podman", *store, "build", "-q", "--runtime", "runc", "-t", "localhost/bench", "-f", containerfile, folder)
    run("podman", *store, "push", "-q", "localhost/bench", f"oci:{folder / 'image'}")


def prepare(folder: Path, count: int) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "answer.csv").write_text("filename,label\nanswer.csv,0.5\n")
    (folder / "labels.csv").write_text("filename,label\nanswer.csv,1\n")
    (folder / "challenge.toml").write_text(CHALLENGE.format(count=count, slots=SIDE_BY_SIDE))
    rows = "".join(f"submission {number},team,oci:image,cpu\n" for number in range(count))
    (folder / "submissions.csv").write_text("submission,team,image,kind\n" + rows)
    run(REFEREE, "submissions", "import", "submissions.csv", cwd=folder)
    run(REFEREE, "doctor", cwd=folder)


def seconds_of_referee(folder: Path) -> float:
    began = time.perf_counter()
    run(REFEREE, "run", "--phase", "test", cwd=folder)
    took = time.perf_counter() - began
    status = subprocess.run([REFEREE, "status", "--json"], cwd=folder, check=True, capture_output=True, text=True)
    verdicts = json.loads(status.stdout)["verdicts"]
    if set(verdicts) != {"ok"}:
        raise SystemExit(f"not every attempt was ok: {verdicts}")
    return took


def seconds_of_podman(folder: Path, store: list[str], count: int) -> float:
    outputs = folder / "outputs"
    for number in range(count):
        (outputs / str(number)).mkdir(parents=True)
    command = [
        "podman", *store, "--runtime", "runc", "run", "--rm", "--network", "none", "--read-only",
        "--memory", MEMORY, "--memory-swap", MEMORY, "--pids-limit", PIDS, "--cpus", "1", "--cap-drop", "all",
        "--security-opt", "no-new-privileges", "--log-driver", "none",
        # As root without CAP_SYS_RESOURCE podman cannot raise its defaults above the limits of this machine.
        "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
        "-v", f"{folder / 'data'}:/data:ro", "-v", f"{outputs}/{{}}:/output", "localhost/bench",
    ]  # fmt: skip
    numbers = "\n".join(str(number) for number in range(count))
    began = time.perf_counter()
    subprocess.run(
        ["xargs", f"-P{SIDE_BY_SIDE}", "-I{}", *command],
        input=numbers,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    took = time.perf_counter() - began
    if any(not (outputs / str(number) / "submission.csv").is_file() for number in range(count)):
        raise SystemExit("a bare podman run left no predictions")
    shutil.rmtree(outputs)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="containers on each side, in all turns together")
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    each = arguments.count // arguments.turns
    ours, floor = [], []
    with tempfile.TemporaryDirectory(prefix="bench-local-") as name:
        folder = Path(name)
        store = ["--root", str(folder / "store"), "--runroot", str(folder / "runroot")]
        try:
            build_image(folder, store)
            for turn in range(arguments.turns):
                place = folder / f"turn-{turn}"
                place.mkdir()
                (place / "image").symlink_to(folder / "image")
                prepare(place, each)
                ours.append(each / seconds_of_referee(place))
                floor.append(each / seconds_of_podman(place, store, each))
        finally:
            # The store's overlay mounts and ids are podman's own; it alone can take them away.
            subprocess.run(["podman", *store, "system", "reset", "--force"], check=False, capture_output=True)
            subprocess.run(["podman", *store, "unmount", "--all"], check=False, capture_output=True)
    result = {
        "floor_per_second": round(statistics.median(floor), 3),
        "referee_per_second": round(statistics.median(ours), 3),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, floor, strict=True)), 3),
        "containers": each * arguments.turns,
        "side_by_side": SIDE_BY_SIDE,
    }
    target = HERE / "results" / "local.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"bench-local: {result['referee_per_second']} containers/s through Referee, "
        f"{result['floor_per_second']} with bare podman, ratio {result['ratio']}"
    )


if __name__ == "__main__":
    main()
