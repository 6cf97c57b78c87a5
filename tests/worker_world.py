"""A small real world for workers and engines: a phase of three files, images of busybox, objects, a node."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from image_layouts import entry, layout, tar
from referee.attempts import AttemptResult, AttemptSpec
from referee.challenge import Contract, Limits, PredictionFormat
from referee.images.store import ImageStore
from referee.objects import ObjectMissingError, ObjectStore
from referee.phases import PhaseData, PhaseFile, file_list_digest
from referee.sandbox import prove_host
from referee.sandbox.box import LEAF_NAME
from referee.worker.publishing import RESULT, result_key

FILES = {"a.mp4": b"A" * 1000, "b.mp4": b"B" * 2000, "deeper/c.mp4": b""}
GOOD = "; ".join(
    [
        "o=/output/submission.csv",
        "echo filename,label > $o",
        "cd /data",
        "find . -type f | sed 's|^./||' | while read f; do echo $f,0.25 >> $o; done",
    ]
)
LIMITS = Limits(
    wall_time=timedelta(seconds=60), cpus=1.0, memory=256 * 2**20, pids=64, scratch=2**24, output=2**20, log=4096
)


@dataclass
class World:
    """Everything that a worker needs."""

    folder: Path
    objects: ObjectStore
    images: ImageStore
    data: PhaseData
    node: Path

    def image(self, script: str) -> str:
        """The digest of an image whose entrypoint is the shell script."""
        name = secrets.token_hex(4)
        busybox = entry("bin/busybox", mode=0o755)
        layer = tar((busybox, Path("/usr/bin/busybox").read_bytes()), *_links(), ("name", name.encode()))
        return self._import(layer, name, Cmd=None, Entrypoint=["/bin/sh", "-c", script])

    def broken_image(self, **run: object) -> str:
        """The digest of an image of files that no kernel starts: empty, without its interpreter, foreign."""
        files = {"script": b"#!/no/such/interpreter\n", "foreign": b"\x7fELF\x02\x01\x01" + bytes(109)}
        layer = tar(("empty", b""), *((entry(path, mode=0o755), content) for path, content in files.items()))
        return self._import(layer, secrets.token_hex(4), **run)

    def _import(self, layer: bytes, name: str, **run: object) -> str:
        folder = layout(self.folder / "layouts" / name, layer, **run)
        return self.images.import_image(f"oci:{folder}").digest

    def spec(self, image: str, *, attempt: str | None = None, stored: bool = True, **changes: object) -> AttemptSpec:
        """A specification, stored under its key."""
        name = attempt or f"s-{secrets.token_hex(3)}.private_test.1"
        spec = AttemptSpec(
            attempt=name,
            evaluation=name.rpartition(".")[0],
            campaign="c",
            submission=name.partition(".")[0],
            phase="private_test",
            image=image,
            phase_data_key=f"phases/{self.data.digest.removeprefix('sha256:')}.json",
            result_key=secrets.token_hex(16),
            private=True,
            contract=Contract(),
            limits=LIMITS,
            predictions=PredictionFormat(),
        ).model_copy(update=changes)
        if stored:
            self.objects.put_once(f"specs/{name}.json", spec.model_dump_json().encode())
        return spec

    def result(self, spec: AttemptSpec) -> AttemptResult | None:
        """The attempt's result, if it was published."""
        try:
            return AttemptResult.model_validate_json(self.objects.get(result_key(spec, RESULT)))
        except ObjectMissingError:
            return None


def make_world(folder: Path, *, proven: bool = True) -> World:
    """A world below `folder`; `proven` for real containers."""
    place = folder / "data"
    files = []
    for name, content in FILES.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files.append(PhaseFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))
    data = PhaseData(location=place, digest=file_list_digest(tuple(files)), files=tuple(files))
    objects = ObjectStore(folder / "objects")
    objects.put_once(f"phases/{data.digest.removeprefix('sha256:')}.json", data.model_dump_json().encode())
    node = folder / "node"
    node.mkdir(mode=0o700)
    if proven:
        # The proof of this machine takes seconds, and is the same for every node folder of this boot.
        shutil.copytree(proofs(), node / "proofs")
    world = World(folder, objects, ImageStore(folder / "objects"), data, node)
    watch_leaves(node, world)
    return world


@functools.cache
def proofs() -> Path:
    """A folder with this machine's proof, made once."""
    node = Path(tempfile.mkdtemp(prefix="referee-proof-"))
    atexit.register(shutil.rmtree, node, ignore_errors=True)
    prove_host(node)
    return node / "proofs"


def _links() -> Iterator[object]:
    for name in (
        "sh",
        "echo",
        "cat",
        "find",
        "sed",
        "sleep",
        "kill",
        "dd",
        "ln",
        "mkfifo",
        "true",
        "tail",
        "head",
        "yes",
    ):
        yield entry(f"bin/{name}", b"2", linkname="busybox")


def eventually(condition: object, seconds: float = 30.0) -> bool:
    """Wait until `condition()` holds; False if it did not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # any callable
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def traces(node: Path, marker: str = "") -> list[str]:
    """What workers of this node left on the machine: folders, mounts, dead cgroups, and processes of ours.

    Args:
        node: the node's folder, which names our processes and those of the runtime.
        marker: a word in the command line of the containers' processes.
    """
    found = [f"folder {path}" for path in sorted((node / "run").glob("*"))] if (node / "run").is_dir() else []
    mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    found += [f"mount {line}" for line in mounted if "/run/referee/" in line or str(node) in line]
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes()
        except OSError:
            continue
        if str(node).encode() in words or (marker and marker.encode() in words):
            found.append(f"process {command.parent.name} {words!r}")
    return found + [f"cgroup {leaf}" for leaf in sorted(_LEAVES.get(node, ())) if Path(leaf).is_dir()]


# The cgroups that sandboxes of a node were seen to have. All sandboxes name theirs alike, and others may be
# at work beside us.
_LEAVES: dict[Path, set[str]] = {}
_WATCHED: set[Path] = set()


def watch_leaves(node: Path, owner: object) -> None:
    """Remember the cgroups of the node's sandboxes, for `traces`, as long as `owner` lives.

    One thread looks for all: a thread for each world that was ever made would slow down whatever is tested last.
    """
    weakref.finalize(owner, _WATCHED.discard, node)
    _LEAVES.setdefault(node, set())
    _WATCHED.add(node)
    _watcher()


@functools.cache
def _watcher() -> threading.Thread:
    thread = threading.Thread(target=_watch_leaves, daemon=True)
    thread.start()
    return thread


def _watch_leaves() -> None:
    while True:
        for node in tuple(_WATCHED):
            with contextlib.suppress(OSError):  # the folder of a world that is being removed
                for record in (node / "run").glob(f"*/box/{LEAF_NAME}"):
                    with contextlib.suppress(OSError, ValueError):
                        _LEAVES[node].update(json.loads(record.read_bytes()))
        time.sleep(0.003)
