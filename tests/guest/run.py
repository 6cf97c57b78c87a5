"""Prove Referee on cgroup v2: the conformance suite and the attacks on limits, in a small virtual machine.

Debian's cloud kernel under QEMU, emulated (TCG), so that it runs on any x86-64 Linux, inside containers and without
/dev/kvm. Prints one line for each result and ends with `N passed, N failed`; the exit status is 0 if nothing failed.

    python tests/guest/run.py                  what `make test-v2` runs: all that rests on cgroups
    python tests/guest/run.py --all            every test of the sandbox and the worker
    python tests/guest/run.py -- -k memory     arguments after -- replace the tests, and go to pytest in the guest
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import machine

SECONDS = 1800
MEMORY_MIB = 1536
PROCESSORS = 2

# Page table isolation costs an emulated processor most of its time.
KERNEL_WORDS = "console=ttyS0 quiet panic=-1 mitigations=off"

_ATTACKS = "tests/integration/test_sandbox_attacks.py"
_BOX = "tests/integration/test_sandbox_box.py"
_PROOF = "tests/integration/test_sandbox_proof.py"
_WORKERS = "tests/integration/test_worker_chaos.py"

# What rests on cgroups; the rest of the boundary is the same code and the same kernel calls on every host.
TESTS = (
    "tests/guest/cgroup_v2.py",
    *(
        f"{_ATTACKS}::test_limits_and_verdicts_hold[{attack}]"
        for attack in (
            "a forged out of memory",
            "a child that kills itself",
            "files in memory beyond the limit",
            "a fork bomb",
            "daemons that ignore signals",
            "a daemon that outlives its parent",
            "stopping everybody",
            "filling the output",
            "out of the kernel's order of killing",
        )
    ),
    f"{_ATTACKS}::test_a_memory_bomb_is_told_by_the_kernel_s_counter",
    f"{_ATTACKS}::test_a_writable_root_counts_as_memory",
    f"{_BOX}::test_nothing_stays_however_it_ends",
    f"{_BOX}::test_memory_of_output_scratch_and_shared_memory_counts",
    *(
        f"{_PROOF}::test_a_defence_that_is_switched_off_is_noticed[{defence}]"
        for defence in ("cgroup namespace", "no devices", "memory limit", "cpu limit", "pids limit")
    ),
    f"{_WORKERS}::test_a_worker_started_by_hand_leaves_nothing_either",
)
ALL_TESTS = ("tests/guest/cgroup_v2.py", _ATTACKS, _BOX, _PROOF, _WORKERS, "tests/integration/test_worker_attempts.py")

# Wide vector instructions are slow to emulate, and C libraries choose them where they are.
PROCESSOR = "Nehalem"


def command(parts: machine.Machine, archive: Path, console: Path) -> list[str]:
    """The command line of the virtual machine: results on its standard output, the console in a file."""
    return [
        # However this run ends, the guest ends with it.
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", PROCESSOR),
        *("-smp", str(PROCESSORS), "-m", str(MEMORY_MIB), "-nodefaults", "-no-reboot", "-display", "none"),
        *("-kernel", str(parts.kernel), "-initrd", str(parts.first), "-append", KERNEL_WORDS),
        *("-drive", f"if=none,id=root,format=raw,snapshot=on,file={parts.root}"),
        *("-device", "virtio-blk-pci,drive=root"),
        *("-drive", f"if=none,id=work,format=raw,readonly=on,file={archive}"),
        *("-device", "virtio-blk-pci,drive=work"),
        *("-serial", f"file:{console}", "-serial", "stdio"),
    ]


def pack_repository(into: Path, arguments: list[str]) -> None:
    """A tar archive of the code and the tests as they stand now, with the code compiled, and what to run."""
    with tempfile.TemporaryDirectory(dir=machine.CACHE) as name:
        copy = Path(name)
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        for part in ("src", "tests"):
            shutil.copytree(machine.REPOSITORY / part, copy / part, ignore=ignored)
        shutil.copy(machine.REPOSITORY / "pyproject.toml", copy)
        # The package is not installed in the guest, but knows its own version.
        facts = copy / "src/referee.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Name: referee\nVersion: {importlib.metadata.version('referee')}\n")
        (copy / "arguments").write_text("".join(f"{each}\n" for each in arguments))
        machine.compile_code(copy / "src", copy, "/referee")
        with tarfile.open(into, "w") as archive:
            for path in sorted(copy.iterdir()):
                archive.add(path, arcname=path.name)


class Tally:
    """Results as they come in."""

    def __init__(self, began: float) -> None:
        self.passed = 0
        self.failed = 0
        self.ended = False
        self._began = began

    def take(self, line: str) -> None:
        """Print one line of the guest."""
        try:
            said = json.loads(line)
        except ValueError:
            print(f"?       {line.rstrip()}", flush=True)
            return
        getattr(self, f"_{said.pop('kind')}")(**said)

    def _booted(self, seconds: float) -> None:
        print(f"The guest's kernel was up after {seconds:.1f} s ({time.monotonic() - self._began:.1f} s of this run)")

    def _host(self, release: str, controllers: list[str], python: str) -> None:
        print(f"Linux {release}, cgroup v2 with {' '.join(controllers)}; Python {python}", flush=True)

    def _result(self, name: str, passed: bool, detail: str, seconds: float | None) -> None:
        took = "" if seconds is None else f" ({seconds:.1f} s)"
        if passed:
            self.passed += 1
            print(f"passed  {name}{took}" + (f": {detail}" if detail else ""), flush=True)
            return
        self.failed += 1
        print(f"FAILED  {name}{took}", flush=True)
        for each in detail.splitlines():
            print(f"        {each}", flush=True)

    def _end(self, status: int) -> None:
        self.ended = True
        if status != 0:
            self._result("the suite in the guest", passed=False, detail=f"ended with status {status}", seconds=None)


def run(parts: machine.Machine, tests: list[str]) -> Tally:
    """Start the guest, print what it says, and see to its end."""
    tally = Tally(time.monotonic())
    console = machine.CACHE / "console.log"
    with tempfile.TemporaryDirectory(dir=machine.CACHE, prefix="run-") as name:
        archive = Path(name) / "repository.tar"
        pack_repository(archive, tests)
        guest = subprocess.Popen(
            command(parts, archive, console), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        clock = threading.Timer(SECONDS, guest.kill)
        clock.start()
        try:
            assert guest.stdout is not None  # a pipe, as asked for
            for line in guest.stdout:
                tally.take(line)
        finally:
            clock.cancel()
            guest.kill()
            guest.wait()
    if not tally.ended:
        words = console.read_text(errors="replace").splitlines()[-25:] if console.exists() else []
        reason = "\n".join([f"It ended, or was ended after {SECONDS} s, before the suite did. Its console:", *words])
        tally.take(
            json.dumps({"kind": "result", "name": "the guest", "passed": False, "detail": reason, "seconds": None})
        )
    return tally


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="arguments for pytest in the guest, after --")
    parser.add_argument("--all", action="store_true", help="every test of the sandbox and the worker")
    wanted: Any = parser.parse_args()
    began = time.monotonic()
    try:
        parts = machine.build()
    except machine.BuildError as error:
        print(error, file=sys.stderr)
        return 3
    tally = run(parts, wanted.tests or list(ALL_TESTS if wanted.all else TESTS))
    print(f"took {time.monotonic() - began:.0f} s")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 0 if tally.failed == 0 and tally.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
