"""Where attacks are run: a challenge with labels as canaries, a node, and workers that are the product's own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks import Attack, overhead
from decoys import Decoys
from guard import Guard, host_settings, terminals
from images import base_layer, hostile_layer, image_layout

from referee.attempts import AttemptResult, AttemptSpec
from referee.challenge import PredictionFormat
from referee.errors import ImageError
from referee.images.store import ImageStore
from referee.objects import ObjectMissingError, ObjectStore
from referee.phases import PhaseData, PhaseFile, file_list_digest
from referee.sandbox import kernel
from referee.worker.lock import take_lock, write_holder
from referee.worker.main import Order, holder, run_worker
from referee.worker.publishing import LOG, PREDICTIONS, RESULT, result_key
from referee.worker.run import Place
from referee.worker.supervise import hold_back_sigterm

FILES = {"a.mp4": b"A" * 1000, "b.mp4": b"B" * 2000, "deeper/c.mp4": b"C" * 10}
_WORKER_SECONDS = 90.0
_READY_SECONDS = 20.0
_NEW_IPC = 0x08000000  # linux/sched.h
_TERMINALS = 100  # more than whoever works on the machine opens meanwhile
DECOY_LABELS = Path(tempfile.gettempdir(), "hostile-decoy-labels.csv")
SHARED = tuple(Path(tempfile.gettempdir(), f"hostile-{name}") for name in ("shared-shm", "kept-scratch", "kept-root"))
Patch = Callable[[], None]


@dataclass(frozen=True)
class Ran:
    """What became of one worker, all of it seen from outside the container."""

    result: AttemptResult | None
    log: str
    predictions: bytes | None
    spec: AttemptSpec
    stored: tuple[str, ...]
    left: tuple[str, ...]
    seen: tuple[str, ...]
    errors: str
    seconds: float


@dataclass
class Running:
    """A worker that was started."""

    spec: AttemptSpec
    pid: int
    guard: Guard
    errors: Path
    began: float
    terminals: int


class Arena:
    """Everything that attacks are run with. It moves this process into network and IPC namespaces of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        self.folder.chmod(0o755)
        self.decoys = Decoys()
        self.canary = f"canary{secrets.token_hex(12)}"
        os.environ["HOSTILE_CANARY"] = self.canary
        self.node = self.folder / "node"
        self.node.mkdir(mode=0o755)
        self.data = self._challenge()
        self.objects = ObjectStore(self.folder / "objects")
        self.objects.put_once(self._phase_key, self.data.model_dump_json().encode())
        self.store = ImageStore(self.folder / "objects")
        self._base = base_layer()
        self._images: dict[str, str] = {}

    def _challenge(self) -> PhaseData:
        place = self.folder / "challenge" / "data"
        self.lay_out()
        files = []
        for name, content in FILES.items():
            files.append(PhaseFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))
        return PhaseData(location=place, digest=file_list_digest(tuple(files)), files=tuple(files))

    def lay_out(self) -> None:
        """The challenge's files as they should be: also after an attack without a defence has changed them.

        A new IPC namespace, too: a queue that an attack left would be in the way of the next, and on the machine.
        """
        kernel.unshare(_NEW_IPC)
        challenge = self.folder / "challenge"
        shutil.rmtree(challenge, ignore_errors=True)
        for name, content in FILES.items():
            path = challenge / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # Open to everybody, so that nothing but the sandbox stands before them.
        labels = self.folder / "challenge" / "labels.csv"
        labels.write_text("filename,label\n" + "".join(f"{name},1\n" for name in FILES), encoding="ascii")
        DECOY_LABELS.write_bytes(labels.read_bytes())
        (self.folder / "challenge" / "team.txt").write_text(self.canary, encoding="ascii")
        for path in (self.folder / "challenge").rglob("*"):
            path.chmod(0o777)

    @property
    def _phase_key(self) -> str:
        return f"phases/{self.data.digest.removeprefix('sha256:')}.json"

    def close(self) -> None:
        """Remove everything."""
        self.decoys.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for place in Path(tempfile.gettempdir()).glob("hostile-*"):
            if place in {DECOY_LABELS, *SHARED}:
                shutil.rmtree(place) if place.is_dir() else place.unlink()

    def image(self, attack: Attack) -> str:
        """The digest of the image that the attack runs in."""
        key = attack.name if attack.image else ""
        if key not in self._images:
            extra = hostile_layer(attack)
            layers = [self._base, *([extra] if extra is not None else [])]
            layout = image_layout(self.folder / "layouts" / secrets.token_hex(4), layers, attack if key else None)
            self._images[key] = self.store.import_image(f"oci:{layout}").digest
        return self._images[key]

    def import_recipe(self, attack: Attack, patch: Patch | None = None) -> tuple[str, dict[str, Any]]:
        """Run an attack on the importer; returns the refusal's words (or nothing) and what the recipe says it saw."""
        place = self.folder / "layouts" / secrets.token_hex(4)
        place.mkdir(parents=True)
        reader, writer = os.pipe()
        child = os.fork()  # so that what `patch` changes is gone afterwards
        if child == 0:
            said: tuple[str, dict[str, Any]] = ("", {"the recipe": "failed"})
            try:
                if patch:
                    patch()
                said = ("", _recipe(attack)(place, self.store) or {})
            except ImageError as error:
                said = (error.message, {})
            finally:
                os.write(writer, json.dumps(said).encode())
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            refusal, facts = json.loads(pipe.read() or b'["", {"the recipe": "failed"}]')
        os.waitpid(child, 0)
        shutil.rmtree(place)
        return refusal, facts

    def spec(self, attack: Attack, contract: str, role: str, level: str, image: str) -> AttemptSpec:
        """A specification, stored as the controller stores it."""
        blind = f"s-{secrets.token_hex(3)}"
        made = AttemptSpec(
            attempt=f"{blind}.private_test.1", evaluation=f"{blind}.private_test", campaign="c", submission=blind,
            phase="private_test", image=image, phase_data_key=self._phase_key, items=attack.items,
            result_key=secrets.token_hex(16), private=True, contract=attack.contract(contract, role, level),
            limits=attack.allowed(), predictions=PredictionFormat(), level=level,
        )  # fmt: skip
        self.objects.put_once(f"specs/{made.attempt}.json", made.model_dump_json().encode())
        return made

    def start(self, spec: AttemptSpec, patch: Patch | None = None) -> Running:
        """Start a worker as the launcher does: a fork of this process, in a guard of its own."""
        order = Order(f"specs/{spec.attempt}.json", self.objects.location, self.node, Place("hostile", "hostile/1"))
        errors = self.folder / f"errors-{spec.attempt}"
        guard, lock = Guard(overhead(spec.level).pids), take_lock(self.node, spec.attempt)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
                guard.enter()
                hold_back_sigterm()
                if patch:
                    patch()
                status = run_worker(order)
            except BaseException as error:  # noqa: BLE001 - the end of a process: what is not printed here is lost
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(status & 0xFF)
        write_holder(lock, holder(order, child))
        os.close(lock)
        return Running(spec, child, guard, errors, time.monotonic(), terminals())

    def log_so_far(self, running: Running) -> str:
        """What the container has written until now, as the worker keeps it."""
        for log in (self.node / "run").glob(f"*{running.spec.attempt}*/log"):
            return log.read_text(errors="replace")
        return ""

    def wait_ready(self, running: Running) -> None:
        """Wait until the container says `ready`, or is gone."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and "ready" not in self.log_so_far(running):
            if os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            running.guard.look()
            time.sleep(0.01)

    def finish(self, running: Running, seconds: float = _WORKER_SECONDS) -> Ran:
        """Wait for the worker's end and gather what is known."""
        deadline = time.monotonic() + seconds
        while os.waitpid(running.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(running.pid, signal.SIGKILL)
                os.waitpid(running.pid, 0)
                break
            running.guard.look()
            time.sleep(0.005)
        took = time.monotonic() - running.began
        left = running.guard.left() + self._left_on_the_node(running.spec)
        seen = []
        if running.guard.least_nice < os.getpriority(os.PRIO_PROCESS, 0):
            seen.append(f"a process raised its priority to {running.guard.least_nice}")
        if running.guard.most_terminals > running.terminals + _TERMINALS:
            seen.append(f"{running.guard.most_terminals} terminals of the machine were open")
        running.guard.close()
        errors = running.errors.read_text(errors="replace") if running.errors.exists() else ""
        running.errors.unlink(missing_ok=True)
        spec = running.spec
        stored = tuple(key.rpartition("/")[2] for key in self.objects.list(f"results/{spec.result_key}"))
        content = self._object(spec, RESULT)
        return Ran(
            AttemptResult.model_validate_json(content) if content else None,
            (self._object(spec, LOG) or b"").decode(errors="replace"), self._object(spec, PREDICTIONS), spec, stored,
            tuple(left), tuple(seen), errors, took,
        )  # fmt: skip

    def _object(self, spec: AttemptSpec, name: str) -> bytes | None:
        try:
            return self.objects.get(result_key(spec, name))
        except ObjectMissingError:
            return None

    def _left_on_the_node(self, spec: AttemptSpec) -> list[str]:
        found = [f"folder {place.name}" for place in (self.node / "run").glob(f"*{spec.attempt}*")]
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        return found + [f"mount {line}" for line in mounts if "/run/referee/box" in line or str(self.folder) in line]

    def snapshot(self) -> dict[str, Any]:
        """What no attack may change: the challenge, the unpacked image layers, the store, and the host's settings."""
        found: dict[str, Any] = {"host": host_settings()}
        for top in ("challenge", "node/images/layers", "objects/blobs", "objects/images"):
            for folder, _, files in os.walk(self.folder / top):
                for path in (folder, *(f"{folder}/{name}" for name in files)):
                    facts = os.lstat(path)
                    found[path] = (
                        facts.st_mode,
                        facts.st_uid,
                        facts.st_size if path != folder else 0,
                        facts.st_mtime_ns,
                    )
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def _recipe(attack: Attack) -> Callable[[Path, ImageStore], dict[str, Any] | None]:
    found = importlib.util.spec_from_file_location(f"recipe_{attack.name}", attack.folder / "recipe.py")
    assert found is not None
    assert found.loader is not None
    recipe = importlib.util.module_from_spec(found)
    found.loader.exec_module(recipe)
    return recipe.attack  # type: ignore[no-any-return]
