"""A whole challenge on disk with real images around busybox, driven through the command line as an operator does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from image_layouts import entry, layout, tar

REFEREE = Path(sys.executable).with_name("referee")
ITEMS = [f"clip-{number}.mp4" for number in range(6)]

CHALLENGE = """
name = "acceptance"
finals_per_team = 3
[phases.public_test]
data = "data/public_test"
labels = "labels/public_test.csv"
visibility = "public"
[phases.private_test]
data = "data/private_test"
labels = "labels/private_test.csv"
visibility = "private"
[limits]
wall_time = "3s"
memory = "64MiB"
pids = 32
scratch = "8MiB"
output = "1MiB"
log = "64KiB"
[metric]
secondary = ["brier"]
[engine]
slots = 2
"""


def predicting(value: str, pause: str = "0") -> str:
    return (
        f"sleep {pause}; echo filename,label > $REFEREE_OUTPUT/submission.csv; cd $REFEREE_DATA; "
        f"for f in *; do echo $f,{value} >> $REFEREE_OUTPUT/submission.csv; done"
    )


# What the container does, and the verdict that is true.
SUBMISSIONS: dict[str, tuple[str, str]] = {
    "half": (predicting("0.5"), "ok"),
    "good": (predicting("0.7", "0.4"), "ok"),
    "good again": (predicting("0.7", "0.4"), "ok"),
    "better": (predicting("0.75", "0.7"), "ok"),
    "sure": (predicting("1", "0.2"), "ok"),
    "slow": (predicting("0.6", "1.2"), "ok"),
    "exits": ("exit 3", "nonzero_exit"),
    "exits as if killed": ("exit 137", "nonzero_exit"),
    "its child is killed": ("sh -c 'kill -KILL $$'; exit $?", "nonzero_exit"),
    "endless": ("while true; do :; done", "time_limit"),
    "eats memory": ("head -c 200m /dev/zero | tail -c 190m > /dev/null", "memory_limit"),
    "no answer": ("true", "no_predictions"),
    "nan": (predicting("nan"), "invalid_predictions"),
    "link": ("ln -s /etc/hosts $REFEREE_OUTPUT/submission.csv", "invalid_predictions"),
}


def busybox_image(folder: Path, script: str) -> Path:
    """An OCI layout of busybox whose entrypoint is a shell script."""
    applets = [entry(f"bin/{name}", b"2", linkname="busybox") for name in ("sh", "sleep", "head", "tail", "ln", "true")]
    layer = tar((entry("bin/busybox", mode=0o755), Path("/usr/bin/busybox").read_bytes()), *applets)
    return layout(folder, layer, Cmd=None, Entrypoint=["/bin/sh", "-c", script])


def make_challenge(folder: Path, submissions: dict[str, tuple[str, str]] | None = None) -> Path:
    """A challenge with phases, labels, images and a manifest; nothing is imported yet."""
    for phase in ("public_test", "private_test"):
        data = folder / "data" / phase
        data.mkdir(parents=True)
        (folder / "labels").mkdir(exist_ok=True)
        rows = []
        for number, item in enumerate(ITEMS):
            (data / item).write_bytes(f"{phase} {item}".encode())
            rows.append(f"{item},{int(number != 0)}\n")
        (folder / "labels" / f"{phase}.csv").write_text("filename,label\n" + "".join(rows))
    (folder / "challenge.toml").write_text(CHALLENGE)
    lines = ["submission,team,image,kind"]
    for number, (name, (script, _)) in enumerate((submissions or SUBMISSIONS).items()):
        busybox_image(folder / "images" / str(number), script)
        lines.append(f"{name},team {number // 2},oci:images/{number},cpu")
    lines.append("wants a gpu,team gpu,oci:images/0,gpu")
    (folder / "submissions.csv").write_text("\n".join(lines) + "\n")
    return folder


def referee(folder: Path, *arguments: str, status: int | None = 0) -> str:
    """Run a command; its standard output. `status` is what it must end with (None: anything)."""
    done = subprocess.run([REFEREE, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if status is not None and done.returncode != status:
        raise AssertionError(f"referee {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def as_json(folder: Path, *arguments: str) -> Any:
    return json.loads(referee(folder, *arguments, "--json"))


def copy_challenge(source: Path, target: Path) -> Path:
    """A second challenge in the very same state, blind ids included."""
    shutil.copytree(source, target, symlinks=True)
    return target


def cgroups_of_referee() -> set[str]:
    """Every cgroup on this machine that a sandbox or a worker made."""
    return {
        str(Path(root) / name)
        for root, folders, _ in os.walk("/sys/fs/cgroup")
        for name in folders
        if name.startswith("referee-")
    }


_PASSING_SECONDS = 60.0
# What was there before any test: another campaign's, or another run's that was killed.
_CGROUPS_BEFORE = cgroups_of_referee()


def leftovers(folder: Path) -> dict[str, list[str]]:
    """What a campaign in `folder` left behind on this machine, of everything that it must not leave."""
    state = str(folder / ".referee")
    run = folder / ".referee" / "node" / "run"
    return {
        "processes": _processes(state),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if state in line],
        "cgroups": _cgroups_left(state),
        "run folders": [path.name for path in run.iterdir()] if run.is_dir() else [],
        "temporary folders": [path.name for path in (folder / ".referee").glob("try-*")],
    }


def _cgroups_left(state: str) -> list[str]:
    found = {path for path in cgroups_of_referee() - _CGROUPS_BEFORE if _is_ours(Path(path), state)}
    deadline = time.monotonic() + _PASSING_SECONDS
    while found and time.monotonic() < deadline:
        # Another test's sandbox, killed or just made, has empty ones too, for a while; one that was left stays.
        time.sleep(0.05)
        found = {path for path in found & cgroups_of_referee() if _is_ours(Path(path), state)}
    return sorted(found)


def _is_ours(cgroup: Path, state: str) -> bool:
    # A cgroup of another campaign on this machine has processes of its own; an empty one is nobody's.
    processes = (cgroup / "cgroup.procs").read_text().split() if (cgroup / "cgroup.procs").exists() else []
    return not processes or any(state in _command(pid) for pid in processes)


def _processes(state: str) -> list[str]:
    found = []
    for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        command = _command(pid)
        if state in command and int(pid) != os.getpid():
            found.append(f"{pid} {command}")
    return found


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
