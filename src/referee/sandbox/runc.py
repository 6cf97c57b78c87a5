"""The `runc` program: start a container from a bundle, and say why it did not start.

Nothing else of it is used. The container is killed through its pid file descriptor (the end of the first process of
a pid namespace ends all of them), its counters are read from its cgroup, and its state is a folder of the attempt, so
that neither `runc kill` nor `runc delete` (20 ms each) is needed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from referee.errors import UnsafeHostError

# The name inside its own state folder; nobody sees it.
_CONTAINER = "sandbox"


def start_command(bundle: Path, state: Path, log: Path, pid_file: Path) -> list[str]:
    """The command line that starts the bundle and returns; the container then belongs to the nearest reaper.

    Raises:
        UnsafeHostError: if runc is not installed.
    """
    return [
        *(find_runc(), "--root", str(state), "--log", str(log), "--log-format", "json"),
        *("run", "--detach", "--bundle", str(bundle), "--pid-file", str(pid_file), _CONTAINER),
    ]


def find_runc() -> str:
    """Where the installed runc is.

    Raises:
        UnsafeHostError: if there is none.
    """
    program = shutil.which("runc")
    if program is None:
        raise UnsafeHostError("runc is not installed.", hint="Type: apt-get install --no-install-recommends runc")
    return program


def runc_version(program: str) -> tuple[int, int, int]:
    """The version that the program states, or zeros if it states none."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


def read_error(log: Path) -> str:
    """The last error in runc's own log, or an empty string."""
    if not log.exists():
        return ""
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in {"error", "fatal"}:
            return str(entry.get("msg", ""))
    return ""
