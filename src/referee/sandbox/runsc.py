"""The `runsc` program (gVisor): a kernel of its own in user space between the submission and the host.

It takes the same bundle, the same root file system and the same cgroup. What differs: the submission's processes are
threads of a sentry process and its tracees, its files are opened by a gofer process, both in the sandbox's cgroup and
children of the worker; the sentry is the process that is waited for and killed. Written for release 20221219 (Debian
12), whose only platform that works everywhere is ptrace: `kvm` needs /dev/kvm, `systrap` came later.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from referee.challenge.contract import SCRATCH
from referee.errors import UnsafeHostError
from referee.sandbox.policy import SandboxPolicy
from referee.sandbox.runtime import PID_FILE, RUNTIME_LOG, End, Overhead, process_end

PLATFORM = "ptrace"

# The sentry's and the gofer's own. Without them the sentry dies at the limit, with a status that looks like the
# submission's: it counts its own threads (one for each system call that blocks, some more for each processor), and
# caches files.
OVERHEAD = Overhead(memory_bytes=512 * 2**20, pids=512)

_SENTRY_LOG = "sentry.%COMMAND%.log"
_BOOT_LOG = "sentry.boot.log"
_END = re.compile(r"\bmain\.go:\d+\] Exiting with status: (\d+)\s*$")
_TAIL_BYTES = 4096


class Runsc:
    """The level `gvisor`: see `Runtime`."""

    @property
    def overhead(self) -> Overhead:
        """Room for the sentry and the gofer."""
        return OVERHEAD

    def find(self) -> str:
        """Where the installed runsc is."""
        return find_runsc()

    def adapt(self, configuration: dict[str, Any], policy: SandboxPolicy) -> dict[str, Any]:
        """Say each mount of the prepared root, which gVisor would otherwise take for one file system.

        The root stays read-only because the overlay below has no upper layer; told so, the gofer would try to
        remount it, which its user namespace may not.
        """
        root = configuration["root"]["path"]
        sealed = ["nosuid", "nodev", "noexec"]
        scratch = sealed[:2] if policy.tmp_exec else sealed
        places = ((policy.data, [*sealed, "ro"]), (policy.output, [*sealed, "rw"]), (SCRATCH, [*scratch, "rw"]))
        binds = [
            {"destination": place, "type": "bind", "source": root + place, "options": ["bind", *options]}
            for place, options in places
        ]
        return configuration | {
            "root": configuration["root"] | {"readonly": False},
            "mounts": [*configuration["mounts"], *binds],
        }

    def start_command(self, bundle: Path, name: str) -> list[str]:
        """`runsc run --detach`. The bundle's system call filter is not used: this release answers EPERM for every call
        that it refuses, so that no thread could start (clone3), and what it would refuse ends in the sentry anyway.
        """
        return [
            *(find_runsc(), "--root", str(bundle / "state"), "--log", str(bundle / RUNTIME_LOG)),
            *("--log-format", "json", "--debug-log", str(bundle / _SENTRY_LOG), "--platform", PLATFORM),
            *("--network", "none", "run", "--detach", "--bundle", str(bundle)),
            *("--pid-file", str(bundle / PID_FILE), name),
        ]

    def read_error(self, bundle: Path) -> str:
        """Every error in runsc's log, the first cause first."""
        return "; ".join(_errors(bundle / RUNTIME_LOG))[:2000]

    def read_end(self, bundle: Path, ended: os.waitid_result) -> End:
        """What the sentry wrote last. Its own exit status cannot tell a signal from a status above 128."""
        said = _said_at_end(bundle / _BOOT_LOG)
        if said is not None:
            if os.WIFSIGNALED(said):
                return End(signal=os.WTERMSIG(said))
            return End(exit_status=os.WEXITSTATUS(said))
        # Killed, by us or by the kernel; or it failed, which says nothing about the submission.
        return process_end(ended) if ended.si_code != os.CLD_EXITED else End()


def _said_at_end(log: Path) -> int | None:
    """The submission's wait status in the log's last line: a submission may put words into the lines before."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").rstrip().splitlines()
    except FileNotFoundError:
        return None
    match = _END.search(lines[-1]) if lines else None
    return int(match[1]) if match else None


def _errors(log: Path) -> list[str]:
    """Messages of errors in a log of JSON objects that stand one after the other, with or without line ends."""
    if not log.exists():
        return []
    text, found, place = log.read_text(encoding="utf-8", errors="replace"), [], 0
    decoder = json.JSONDecoder()
    while (place := text.find("{", place)) >= 0:
        try:
            entry, place = decoder.raw_decode(text, place)
        except ValueError:
            place += 1
            continue
        if isinstance(entry, dict) and entry.get("level") in {"error", "fatal"}:
            found.append(str(entry.get("msg", "")).strip())
    return list(dict.fromkeys(found))


def find_runsc() -> str:
    """Where the installed runsc is.

    Raises:
        UnsafeHostError: if there is none.
    """
    program = shutil.which("runsc")
    if program is None:
        raise UnsafeHostError(
            "runsc (gVisor) is not installed, and the challenge asks for the level `gvisor`.",
            hint="Type: apt-get install --no-install-recommends runsc",
        )
    return program


def runsc_version(program: str) -> str:
    """The release that the program states, such as `0.0~20221219.0`; empty if it states none."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    match = re.search(r"version (\S+)", said)
    return match[1] if match else ""
