"""A small real world for sandboxes: images made of busybox or of this machine's Python, and data to look at."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from referee.challenge import Contract, Limits
from referee.images.model import ImageConfig, ImageRecord, UnpackedImage
from referee.sandbox import Box, Refusal, enclosed, sandbox_policy

MIB = 2**20
LIMITS = Limits(
    wall_time=timedelta(seconds=30), cpus=2.0, memory=128 * MIB, shm=4 * MIB, scratch=8 * MIB, output=4 * MIB,
    output_files=64, log=64 * 1024, pids=64, open_files=256,
)  # fmt: skip
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


@dataclass
class Ran:
    """What became of one run: the outcome's fields, the log, and what was harvested."""

    outcome: dict[str, Any]
    log: str
    content: bytes | None
    refusal: str | None
    steps: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return self.outcome[name]


@dataclass
class World:
    """Folders below one temporary folder. The layer may be added to before a run."""

    folder: Path

    def __post_init__(self) -> None:
        self.layer = self.folder / "layer"
        self.data = self.folder / "phase"
        self.run_folder = self.folder / "run"
        for path in (self.layer / "bin", self.layer / "etc", self.data / "deeper", self.run_folder):
            path.mkdir(parents=True)
        shutil.copy("/usr/bin/busybox", self.layer / "bin/busybox")
        for name in ("sh", "cat", "ls", "id", "sleep", "dd", "ln", "mkfifo", "mkdir", "touch", "nc", "stat", "true"):
            (self.layer / "bin" / name).symlink_to("busybox")
        (self.layer / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nworker:x:77:78::/home/w:/bin/sh\n")
        (self.layer / "etc/group").write_text("root:x:0:\nworker:x:78:\nvideo:x:44:worker\n")
        for name in ("a.mp4", "b.mp4", "deeper/c.mp4"):
            (self.data / name).write_text(name)
            (self.data / name).chmod(0o600)

    def image(self, *arguments: str, layers: tuple[Path, ...] = (), **config: Any) -> UnpackedImage:
        record = ImageRecord(
            digest="sha256:0", config_digest="sha256:1", architecture=config.pop("architecture", ARCHITECTURE),
            layers=("x",), diff_ids=("x",), stored_bytes=0, unpacked_bytes=0,
            config=ImageConfig(entrypoint=arguments, **config),
        )  # fmt: skip
        return UnpackedImage(record, (*layers, self.layer))

    def shell(self, script: str, **config: Any) -> UnpackedImage:
        return self.image("/bin/busybox", "sh", "-c", script, **config)

    def python(self, program: str, **config: Any) -> UnpackedImage:
        """An image of this machine's Python; `/bin` and `/lib` are its and the system's."""
        prefix = Path(sys.base_prefix).resolve()
        layers = (prefix, *(() if prefix == Path("/usr") else (Path("/usr"),)))
        python = f"/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        image = self.image(
            python, "-S", "-s", "-c", program, environment=("LD_LIBRARY_PATH=/lib", "PYTHONHOME=/"), **config
        )
        return UnpackedImage(image.record, (self.layer, *layers))

    def run(
        self,
        image: UnpackedImage,
        *,
        contract: Contract | None = None,
        items: tuple[str, ...] | None = None,
        during: Callable[[Box], Any] | None = None,
        sink: io.BytesIO | None = None,
        **limits: Any,
    ) -> Ran:
        """Run the image once, in a process that is PID 1 of its own namespaces, as a worker is."""
        policy = sandbox_policy(contract or Contract(), LIMITS.model_copy(update=limits))

        def work() -> dict[str, Any]:
            folder = self.run_folder / f"box-{os.urandom(4).hex()}"
            folder.mkdir()
            kept = sink or io.BytesIO()
            with Box(policy, image, self.data, items, folder) as box:
                steps = during(box) if during else {}
                outcome = box.run(kept)
                taken = box.harvest(policy.predictions, policy.output_bytes) if outcome.started else None
            left = sorted(path.name for path in folder.iterdir())
            folder.rmdir()
            return {
                "outcome": {name: getattr(outcome, name) for name in outcome.__dataclass_fields__},
                "log": kept.getvalue().decode(errors="replace"),
                "content": base64.b64encode(taken).decode() if isinstance(taken, bytes) else None,
                "refusal": taken.kind if isinstance(taken, Refusal) else None,
                "steps": (steps or {}) | {"left": left},
            }

        found = enclosed(work)
        assert found["steps"].pop("left") == []
        content = None if found["content"] is None else base64.b64decode(found["content"])
        return Ran(found["outcome"], found["log"], content, found["refusal"], found["steps"])


def traces() -> dict[str, list[str]]:
    """Cgroups, mounts and processes of sandboxes on this machine, seen from outside any sandbox."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/run/referee" in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").rglob("referee-*") if path.name != "referee-workers"]
    return {"mounts": mounts, "cgroups": groups}


def cgroup_of(record: Path) -> list[Path]:
    """The folders that a sandbox recorded as its cgroups."""
    return [Path(path) for path in json.loads(record.read_text())]


def setuid_copy(source: str, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o4755)


def disk_node(target: Path) -> None:
    os.mknod(target, stat.S_IFBLK | 0o666, Path("/").stat().st_dev)
    target.chmod(0o666)
