"""Runs inside the guest: looks at the machine, proves it, and runs the tests; one JSON line for each result.

Started twice over: as the child of PID 1 in the root cgroup, and again by itself, once for each part, in a cgroup
that is delegated as `systemd-run --scope -p Delegate=yes` does it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
RESULTS = Path("/dev/ttyS1")
CONTROLLERS = ("cpu", "memory", "pids", "cpuset")

# Longest part of a reason that is worth a slow serial line.
_DETAIL_CHARACTERS = 4000


def emit(kind: str, **facts: Any) -> None:
    """Write one line to the runner."""
    with RESULTS.open("a", encoding="ascii") as port:
        port.write(json.dumps({"kind": kind, **facts}) + "\n")


def result(name: str, *, passed: bool, detail: str = "", seconds: float | None = None) -> None:
    """One line of the runner's list."""
    emit("result", name=name, passed=passed, detail=detail[-_DETAIL_CHARACTERS:], seconds=seconds)


def scope(name: str) -> Path:
    """A new cgroup as systemd makes one with `Delegate=yes`: every controller there, no process, no limit."""
    (CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in CONTROLLERS))
    group = CGROUPS / name
    group.mkdir()
    return group


def run_in(group: Path, *command: str) -> int:
    """Run a command whose first process is born in `group`; returns its exit status."""

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.run(command, preexec_fn=enter, check=False).returncode


def close(group: Path) -> None:
    """Remove a scope as systemd does when its last process is gone; only the workers' own leaf may be there still."""
    left = [Path(folder, name) for folder, names, _ in os.walk(group, topdown=False) for name in names]
    result(
        f"nothing stays in {group.name}",
        passed={path.name for path in left} <= {"referee-workers"},
        detail=" ".join(path.name for path in left),
    )
    deadline = time.monotonic() + 10
    for path in (*left, group):
        while True:
            try:
                path.rmdir()
                break
            except OSError as error:  # a launcher that is about to end, or was asked to
                if time.monotonic() > deadline:
                    result(f"removing {path.name}", passed=False, detail=str(error))
                    return
                time.sleep(0.05)


def examine(place: str) -> None:
    """What `referee doctor` says of this machine."""
    from referee.sandbox import examine_host  # noqa: PLC0415 - seconds on this processor, after the first line

    for check in examine_host():
        result(
            f"doctor in {place}: {check.name}", passed=check.status != "fail", detail=f"{check.status}: {check.seen}"
        )


def prove(place: str) -> None:
    """Every promise, shown here."""
    from referee.errors import UnsafeHostError  # noqa: PLC0415
    from referee.sandbox import proof  # noqa: PLC0415

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        try:
            shown = proof.prove_host(Path(name)).checks
        except UnsafeHostError as error:
            result(f"proof in {place}", passed=False, detail=f"{error.message} {error.hint}")
            return
    for promise in shown:
        result(f"promise in {place}: {promise.name}", passed=promise.held, detail=promise.seen)
    result(f"proof in {place}", passed=True, detail=f"{len(shown)} promises", seconds=time.monotonic() - began)


class Reporter:
    """A pytest plugin: each test's result as it is known."""

    def __init__(self) -> None:
        self._process = os.getpid()  # tests fork
        self._failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for a test's set-up, its call and its end."""
        if os.getpid() != self._process:
            return
        if report.failed:
            self._failed[report.nodeid] = self._failed.get(report.nodeid, "") + report.longreprtext
        if report.when == "call":
            self._seconds = report.duration
            self._skipped = report.skipped
        elif report.when == "setup":
            self._seconds, self._skipped = 0.0, report.skipped
        else:
            why = self._failed.get(report.nodeid)
            detail = why or ("not run here" if self._skipped else "")
            name = report.nodeid.removeprefix("tests/").removeprefix("integration/")
            result(name, passed=why is None and not self._skipped, detail=detail, seconds=self._seconds)

    def pytest_collectreport(self, report: Any) -> None:
        """Called by pytest for each file it looks into."""
        if report.failed:
            result(f"collecting {report.nodeid}", passed=False, detail=report.longreprtext)


def run_tests(arguments: list[str]) -> int:
    """The test-suite's own tests, and those of this folder; 0 if they could be run, whatever they found."""
    import pytest  # noqa: PLC0415

    # The suite's conftest.py is for databases, whose drivers the guest does not have.
    words = ["-q", "-p", "no:cacheprovider", "--noconftest", *arguments]
    status = pytest.main(words, plugins=[Reporter()])
    return 0 if status in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} else int(status)


def main(arguments: list[str]) -> int:
    """Everything; `arguments` go to pytest."""
    host = {"release": os.uname().release, "controllers": (CGROUPS / "cgroup.controllers").read_text().split()}
    emit("host", **host, python=sys.version.split()[0])
    for place, group in (("the root group", CGROUPS), ("a delegated group", scope("proof.scope"))):
        status = run_in(group, sys.executable, __file__, "prove", place)
        if status != 0:
            result(f"proof in {place}", passed=False, detail=f"ended with status {status}: see the console")
        if group != CGROUPS:
            close(group)
    tests = scope("tests.scope")
    status = run_in(tests, sys.executable, __file__, "tests", *arguments)
    if status != 0:
        result("pytest", passed=False, detail=f"ended with status {status}: see the console")
    close(tests)
    return status


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prove", place]:
            examine(place)
            prove(place)
        case ["tests", *arguments]:
            sys.exit(run_tests(arguments))
        case _:
            sys.exit(main(Path("arguments").read_text(encoding="utf-8").splitlines()))
