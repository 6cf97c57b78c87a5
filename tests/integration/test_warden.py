"""Attacks on the warden by processes that are in no job: what it answers, and that it goes on serving."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_cluster import UID
from slurm_world import running_warden

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def warden() -> Iterator[Path]:
    """The folder of a warden that serves the user `nobody`."""
    folder = Path(tempfile.mkdtemp(prefix="referee-warden-"))
    folder.chmod(0o755)  # any user may try it
    with running_warden(folder, folder / "node"):
        yield folder
    shutil.rmtree(folder)


def _ask(
    place: Path, message: bytes, *, uid: int = UID, send_socket: bool = True, pause_seconds: float = 0.0
) -> dict[str, object]:
    """What the warden answers a process that is in no job."""
    program = (
        "import os, socket, sys, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])\n"
        "time.sleep(float(sys.argv[4]))\n"
        "a, b = socket.socketpair()\n"
        "socket.send_fds(s, [sys.argv[2].encode()], [b.fileno()] if sys.argv[3] else [])\n"
        "print(s.recv(65536).decode())\n"
    )
    words = [
        "/usr/bin/python3",
        "-c",
        program,
        str(place),
        message.decode(),
        "yes" if send_socket else "",
        str(pause_seconds),
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, user=uid, group=uid, extra_groups=[], cwd="/", check=True, timeout=30
    )
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


REQUEST = json.dumps({"attempt": "s-000000.p.1", "job": "slurm/1_0", "node": "n"}).encode()


def test_the_warden_serves_nobody_outside_of_a_job(warden: Path) -> None:
    answer = _ask(warden / "warden.sock", REQUEST)
    assert "no Slurm job's control groups" in str(answer["refused"])
    assert list(warden.glob("node/**/box")) == []


def test_the_warden_serves_only_those_who_are_named(warden: Path) -> None:
    assert "not among the users" in str(_ask(warden / "warden.sock", REQUEST, uid=65533)["refused"])


def test_who_is_refused_reads_why_however_late_he_asks(warden: Path) -> None:
    """A stranger who is answered before he asked may find the connection reset instead of the answer."""
    answer = _ask(warden / "warden.sock", REQUEST, uid=65533, pause_seconds=0.5)
    assert "not among the users" in str(answer["refused"])


def test_strangers_who_say_nothing_do_not_pile_up(warden: Path) -> None:
    program = (
        "import socket, sys\n"
        "def connect():\n"
        "    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); return s\n"
        "first, *others = [connect() for _ in range(100)]\n"
        "print(first.recv(65536).decode())\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", program, str(warden / "warden.sock")],
        capture_output=True,
        text=True,
        user=65533,
        group=65533,
        extra_groups=[],
        cwd="/",
        check=False,
        timeout=30,
    )
    assert "not among the users" in done.stdout, done.stderr
    assert "no Slurm job's control groups" in str(_ask(warden / "warden.sock", REQUEST)["refused"])


@pytest.mark.parametrize(
    "message",
    [
        b"not json",
        b"[]",
        b'{"attempt": "a", "command": "/bin/sh"}',
        b'{"attempt": "../../etc", "job": "j", "node": "n"}',
        b'{"attempt": 1, "job": "j", "node": "n"}',
        b'{"attempt": "s-1.p.1", "job": "j", "node": "n", "gpus": ["GPU-1"]}',
    ],
)
def test_odd_requests_are_refused_and_the_warden_goes_on(warden: Path, message: bytes) -> None:
    assert "refused" in _ask(warden / "warden.sock", message)
    assert "refused" in _ask(warden / "warden.sock", REQUEST, send_socket=False)


def test_a_file_that_others_may_write_is_not_obeyed(tmp_path: Path) -> None:
    place = tmp_path / "warden.toml"
    place.write_text('users = ["nobody"]\n')
    place.chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-m", "referee.worker.warden", str(place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "can be written by others" in done.stderr
