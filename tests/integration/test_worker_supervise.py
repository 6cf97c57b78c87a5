"""What the kernel takes when one of a worker's two processes ends: everything that was started below."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from referee.worker.supervise import supervise
from worker_world import eventually

pytestmark = pytest.mark.containers  # it needs root as much as they do


def alive(marker: str) -> list[int]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in command.read_bytes():
                found.append(int(command.parent.name))
        except OSError:
            continue
    return found


def start(body: Callable[[], int], after: Callable[[], None] = lambda: None) -> int:
    """A worker's outer process."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = supervise(body, after)
        finally:
            os._exit(status)
    return child


def daemons(marker: str) -> Callable[[], int]:
    """Start processes that leave every session and parent behind, and stay."""

    def body() -> int:
        for command in (["sleep", marker], ["setsid", "sleep", marker], ["sh", "-c", f"setsid -f sleep {marker}"]):
            subprocess.Popen(["setsid", "-f", *command])
        signal.sigwait({signal.SIGTERM})
        return 7

    return body


@pytest.mark.parametrize("victim", ["inner", "outer", "nobody"])
def test_nothing_outlives_the_worker(victim: str) -> None:
    marker = f"3600.{secrets.randbelow(10**9)}"
    outer = start(daemons(marker))
    assert eventually(lambda: len(alive(marker)) == 3)
    [inner] = [int(child) for child in Path(f"/proc/{outer}/task/{outer}/children").read_text().split()]
    os.kill(inner if victim == "inner" else outer, signal.SIGTERM if victim == "nobody" else signal.SIGKILL)
    _, status = os.waitpid(outer, 0)
    expected = {"inner": 128 + 9, "outer": -9, "nobody": 7}
    assert os.waitstatus_to_exitcode(status) == expected[victim]
    assert eventually(lambda: alive(marker) == [] and not Path(f"/proc/{inner}").exists())


def test_the_inner_process_is_alone_in_its_namespaces(tmp_path: Path) -> None:
    def body() -> int:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
        (tmp_path / "mine").touch()
        numbers = {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}
        return 0 if os.getpid() == 1 and numbers == {"1"} and Path.cwd() == Path("/") else 1

    _, status = os.waitpid(start(body), 0)
    assert status == 0
    assert list(tmp_path.iterdir()) == []


def test_cleaning_up_begins_when_everything_is_gone(tmp_path: Path) -> None:
    marker = f"3600.{secrets.randbelow(10**9)}"
    outer = start(daemons(marker), lambda: (tmp_path / "left").write_text(str(len(alive(marker)))) and None)
    assert eventually(lambda: len(alive(marker)) == 3)
    os.kill(outer, signal.SIGTERM)
    os.waitpid(outer, 0)
    assert (tmp_path / "left").read_text() == "0"


def test_a_body_that_fails_is_told_from_one_that_answers(capfd: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise RuntimeError("broken on purpose")

    _, status = os.waitpid(start(body), 0)
    assert os.waitstatus_to_exitcode(status) == 70
    assert "broken on purpose" in capfd.readouterr().err
