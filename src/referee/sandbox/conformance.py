"""The conformance suite: probe containers, and what each must have been unable to do. Run by `proof` as a program."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from referee.challenge import Contract, Limits
from referee.images.model import ImageConfig, ImageRecord, UnpackedImage
from referee.sandbox.box import Box, BoxOutcome
from referee.sandbox.enclosure import enclosed
from referee.sandbox.gvisor import claimed_by_gvisor
from referee.sandbox.judging import Excess, Seen, judge_excesses, judge_inside
from referee.sandbox.levels import runtime_of
from referee.sandbox.policy import Level, SandboxPolicy, sandbox_policy

_MIB = 2**20
_PROBES = Path(__file__).parent / "probes"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

LIMITS = Limits(
    wall_time=timedelta(seconds=20), cpus=1.0, memory=192 * _MIB, shm=4 * _MIB, scratch=8 * _MIB, output=4 * _MIB,
    output_files=64, log=256 * 1024, pids=64, open_files=256,
)  # fmt: skip

# What each excess is run with, beside LIMITS.
EXCESSES: dict[str, dict[str, Any]] = {
    "memory": {"memory": 64 * _MIB},
    "false_status": {},
    "cpu": {"cpus": 0.2, "wall_time": timedelta(seconds=1)},
    "processes": {"pids": 32},
    "endless": {"wall_time": timedelta(milliseconds=300)},
    "log": {"log": 1000},
    "output": {},
    "scratch": {},
}


@dataclass(slots=True)
class Listeners:
    """Servers of our own on this host's loopback and abstract unix sockets: nothing may reach them."""

    reached: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)

    def open(self) -> dict[str, tuple[int, str, Any]]:
        """Listen; returns where, as the probe needs it."""
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stream.bind(("127.0.0.1", 0))
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", 0))
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        name = f"referee-proof-{os.urandom(8).hex()}"
        unix.bind("\0" + name)
        for listener in (stream, unix):
            listener.listen()
        self._sockets = [stream, datagram, unix]
        for each in self._sockets:
            threading.Thread(target=self._count, args=(each,), daemon=True).start()
        return {
            "tcp": (socket.AF_INET, "stream", list(stream.getsockname())),
            "udp": (socket.AF_INET, "datagram", list(datagram.getsockname())),
            "abstract unix": (socket.AF_UNIX, "stream", name),
        }

    def _count(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                if listener.type == socket.SOCK_DGRAM:
                    listener.recv(64)
                else:
                    listener.accept()[0].close()
                self.reached += 1

    def close(self) -> None:
        """Stop listening."""
        for each in self._sockets:
            each.close()


class Suite:
    """Probe containers over one folder of the host, which must be empty."""

    def __init__(self, folder: Path, level: Level = "runc") -> None:
        self._folder = folder
        self._level = level
        self._layer = folder / "probe"
        self._data = folder / "phase"

    def prepare(self) -> None:
        """Lay out the probes' own layer and data."""
        probe = self._layer / "probe"
        probe.mkdir(parents=True)
        for name in ("inside.py", "excess.py"):
            shutil.copyfile(_PROBES / name, probe / name)
        helper = probe / "setuid-id"
        shutil.copyfile(shutil.which("id") or "/usr/bin/id", helper)
        helper.chmod(0o4755)
        # The device cgroup lets /dev/zero through, so that only `nodev` stands before the first.
        os.mknod(probe / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(probe / "disk", stat.S_IFBLK | 0o666, Path("/").stat().st_dev)
        (probe / "open").mkdir()
        self._data.mkdir()
        for name in ("seen", "hidden"):
            (self._data / name).write_text(name, encoding="ascii")
        # Nothing but the mounts themselves keeps the probe from writing here.
        for path in (probe / "device", probe / "disk", probe / "open", self._data, *self._data.iterdir()):
            path.chmod(0o777)

    def image(self, *arguments: str) -> UnpackedImage:
        """An image of this machine's own Python and libraries, found at the root instead of at /usr."""
        prefix = Path(sys.base_prefix).resolve()
        layers = [self._layer, prefix] + ([Path("/usr")] if prefix != Path("/usr") else [])
        python = f"/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        config = ImageConfig(
            entrypoint=(python, "-S", "-s", *arguments),
            environment=("LD_LIBRARY_PATH=/lib", "PYTHONDONTWRITEBYTECODE=1", "PYTHONHOME=/"),
        )
        record = ImageRecord(
            digest="probe", config_digest="probe", architecture=_ARCHITECTURES[os.uname().machine],
            layers=("probe",), diff_ids=("probe",), stored_bytes=0, unpacked_bytes=0, config=config,
        )  # fmt: skip
        return UnpackedImage(record, tuple(layers))

    def run(self, policy: SandboxPolicy, *arguments: str) -> tuple[BoxOutcome, bytes]:
        """One probe container; returns its outcome and its log."""
        log = io.BytesIO()
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix="box-"))
        with Box(policy, self.image(*arguments), self._data, ("seen",), folder) as box:
            outcome = box.run(log)
        folder.rmdir()
        return outcome, log.getvalue()

    def inside(self, targets: dict[str, Any]) -> Seen:
        """What a probe saw, run with the default policy."""
        contract = Contract(environment={"PROBE": json.dumps({"targets": targets})})
        outcome, log = self.run(sandbox_policy(contract, LIMITS, level=self._level), "/probe/inside.py")
        try:
            return Seen(outcome, json.loads(log))
        except ValueError:
            return Seen(outcome, {}, log.decode(errors="replace")[-500:])

    def excess(self, name: str) -> Excess:
        """What became of a probe that uses more than its limits."""
        limits = LIMITS.model_copy(update=EXCESSES[name])
        outcome, log = self.run(sandbox_policy(Contract(), limits, level=self._level), "/probe/excess.py", name)
        return Excess(limits, outcome, log, runtime_of(self._level).overhead.memory_bytes)


def run_suite(folder: Path, level: Level = "runc") -> dict[str, Any]:
    """Run every probe and judge it. To be called in an enclosure."""
    began = time.monotonic()
    suite = Suite(folder, level)
    suite.prepare()
    listeners = Listeners()
    try:
        first = suite.inside(listeners.open())
        second = suite.inside({})
    finally:
        listeners.close()
    checks = judge_inside(first, second, listeners.reached)
    if level == "gvisor":
        checks = claimed_by_gvisor(checks, first.said)
    checks += judge_excesses({name: suite.excess(name) for name in EXCESSES})
    return {"checks": [asdict(check) for check in checks], "seconds": time.monotonic() - began}


if __name__ == "__main__":
    print(json.dumps(enclosed(lambda: run_suite(Path(sys.argv[1]), "gvisor" if sys.argv[2] == "gvisor" else "runc"))))
