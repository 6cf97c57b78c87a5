"""The self-proof: each promise of the sandbox is shown on this machine, once each boot, before anything untrusted runs.

Probe containers try what must not work. They are made of this machine's own Python and libraries, mounted read-only,
so that no image is needed. Wherever it can be, the outcome is judged from outside (counters of the kernel, listeners
of our own); the rest is what the probe saw, and the probe is ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from referee.boot import boot_id
from referee.errors import HostError, UnsafeHostError
from referee.sandbox.box import LOCK_NAME
from referee.sandbox.levels import runtime_of
from referee.sandbox.policy import Level, known_level
from referee.sandbox.promise import Promise
from referee.sandbox.sweep import sweep

_SUITE_SECONDS = 120
_DEATH_SECONDS = 10.0
_CANARY = "REFEREE_PROOF_CANARY"


@dataclass(frozen=True, slots=True)
class HostProof:
    """What a conformance run on this machine showed, and which broken promises the operator accepts."""

    boot_id: str
    level: Level
    key: str
    checks: tuple[Promise, ...]
    seconds: float = 0.0
    accepted: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Promise, ...]:
        """Promises that could not be shown and that nobody accepted."""
        return tuple(check for check in self.checks if not check.held and check.name not in self.accepted)

    def as_json(self) -> dict[str, Any]:
        """The proof as plain values."""
        return asdict(self)


def prove_host(node_folder: Path, level: str = "runc", accepted_risks: Iterable[str] = ()) -> HostProof:
    """Show every promise on this machine, or take the proof of this boot if nothing it rests on has changed.

    Args:
        node_folder: proofs are kept in `proofs` below it.
        level: `runc` or `gvisor`.
        accepted_risks: names of promises that may be broken.

    Raises:
        ConfigurationError: if there is no such level.
        UnsafeHostError: if the level's runtime is not installed, or if a promise cannot be shown and is not accepted,
            with the reason and the mend.
    """
    wanted = known_level(level)
    accepted = tuple(sorted(set(accepted_risks)))
    folder = node_folder / "proofs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = _key(wanted)
    place = folder / f"{level}.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers that start together wait for one proof
        proof = _read(place, key, accepted)
        if proof is None:
            proof = _prove(folder, wanted, key, accepted)
            if proof.broken:  # a machine under heavy load may need a second try to show a limit
                proof = _prove(folder, wanted, key, accepted)
            aside = place.with_suffix(".new")
            aside.write_text(json.dumps(proof.as_json() | {"accepted": []}), encoding="utf-8")
            aside.replace(place)
    if proof.broken:
        place.unlink(missing_ok=True)  # a machine that was mended is looked at anew
        reasons = "; ".join(f"{check.name} ({check.seen})" for check in proof.broken)
        mends = " ".join(dict.fromkeys(check.mend for check in proof.broken if check.mend))
        names = " ".join(f"--accept-risk {check.name}" for check in proof.broken)
        raise UnsafeHostError(
            f"This machine cannot show what the sandbox promises: {reasons}.",
            hint=f"{mends} Or accept it by name, on the record: {names}.".strip(),
        )
    return proof


def _key(level: Level) -> str:
    """Names everything that a proof rests on: this boot, the kernel, the runtime, and the code of this room."""
    program = Path(runtime_of(level).find()).resolve()
    status = program.stat()
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    facts = (boot_id(), platform.release(), str(program), status.st_size, status.st_mtime_ns, level, digest.hexdigest())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _read(place: Path, key: str, accepted: tuple[str, ...]) -> HostProof | None:
    try:
        facts = json.loads(place.read_bytes())
        checks = tuple(Promise(**check) for check in facts.pop("checks"))
        proof = HostProof(**(facts | {"checks": checks, "accepted": accepted}))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return proof if proof.key == key else None


def _clear(left: Path) -> None:
    """Remove what a killed proof left.

    Its suite is a process of its own, which ends a moment later, or goes on where only its parent was killed. As long
    as it holds a sandbox, the folder stays: the sandbox's cgroups are known from there alone.
    """
    deadline = time.monotonic() + _DEATH_SECONDS
    while True:
        with contextlib.suppress(OSError):  # cgroups that would not go yet
            sweep(left)
        if not any(left.rglob(LOCK_NAME)):
            shutil.rmtree(left, ignore_errors=True)  # a suite that goes on may still make something there
            return
        if time.monotonic() > deadline:
            return  # for the next proof
        time.sleep(0.05)


def _prove(folder: Path, level: Level, key: str, accepted: tuple[str, ...]) -> HostProof:
    for left in folder.glob("suite-*"):  # of a proof that was killed: the lock on proofs is ours
        _clear(left)
    name = tempfile.mkdtemp(dir=folder, prefix="suite-")
    try:
        # A process of its own: the suite forks and changes namespaces, which a program with threads must not.
        command = [sys.executable, "-m", "referee.sandbox.conformance", name, level]
        environment = os.environ | {_CANARY: "must not be seen"}
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SUITE_SECONDS, check=False, env=environment)
        except subprocess.TimeoutExpired as error:
            raise UnsafeHostError(
                f"The sandbox's proof did not end within {_SUITE_SECONDS} s.", hint="Look at the machine's load."
            ) from error
    finally:
        # Whoever is told to stop here kills the suite, whose sandboxes' cgroups are then known from that folder alone.
        _clear(Path(name))
    try:
        said = json.loads(done.stdout)
        checks = tuple(Promise(**check) for check in said["checks"])
    except (ValueError, KeyError, TypeError) as error:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise UnsafeHostError(
            f"The sandbox's proof could not be made: {words[-1] if words else 'no reason was given'}",
            hint="Run `referee doctor` to see what this machine lacks.",
        ) from error
    if not checks:
        raise HostError("The sandbox's proof showed nothing.", hint="Report this: it is an error in Referee.")
    return HostProof(boot_id(), level, key, checks, float(said["seconds"]), accepted)
