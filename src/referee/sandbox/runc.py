"""The `runc` program: start a container from a bundle, and say why it did not start.

Nothing else of it is used. The container is killed through its pid file descriptor (the end of the first process of
a pid namespace ends all of them), its counters are read from its cgroup, and its state is a folder of the attempt, so
that neither `runc kill` nor `runc delete` (20 ms each) is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from referee.errors import UnsafeHostError
from referee.sandbox.policy import SandboxPolicy
from referee.sandbox.runtime import PID_FILE, RUNTIME_LOG, End, Overhead, process_end


class Runc:
    """The level `runc`: see `Runtime`."""

    @property
    def overhead(self) -> Overhead:
        """Nothing stays in the cgroup but the submission."""
        return Overhead()

    def find(self) -> str:
        """Where the installed runc is."""
        return find_runc()

    def adapt(self, configuration: dict[str, Any], policy: SandboxPolicy) -> dict[str, Any]:  # noqa: ARG002 - the seam's
        """Bundles are written for runc."""
        return configuration

    def start_command(self, bundle: Path, name: str) -> list[str]:
        """`runc run --detach`."""
        return [
            *(find_runc(), "--root", str(bundle / "state"), "--log", str(bundle / RUNTIME_LOG)),
            *("--log-format", "json", "run", "--detach", "--bundle", str(bundle)),
            *("--pid-file", str(bundle / PID_FILE), name),
        ]

    def read_error(self, bundle: Path) -> str:
        """The last error in runc's own log."""
        return read_error(bundle / RUNTIME_LOG)

    def read_end(self, bundle: Path, ended: os.waitid_result) -> End:  # noqa: ARG002 - the seam's
        """The process is the submission's own."""
        return process_end(ended)


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
