"""What runs on a Slurm cluster of the tests (`slurm_cluster`): wardens, a world for engines, an operator who types.

Jobs are submitted by an ordinary user (`nobody`), and are held by control groups as on a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from referee.challenge import SlurmChoice
from referee.engines.slurm import SlurmEngine
from referee.engines.slurm_commands import SlurmCommands
from slurm_cluster import START_SECONDS, UID, USER, Cluster, SlurmError, end
from worker_world import World, make_world, proofs, watch_leaves

_ELSEWHERE = """
import pathlib, sys
from referee.sandbox import cdi
from referee.worker.warden import main
cdi.FOLDERS = (pathlib.Path(sys.argv.pop(1)),)
sys.exit(main())
"""


@contextlib.contextmanager
def running_warden(
    folder: Path, node_folder: Path, *, devices: Path | None = None, **settings: object
) -> Iterator[subprocess.Popen[bytes]]:
    """A warden for the ordinary user, listening at `folder/warden.sock`.

    Args:
        folder: for its file, socket and log.
        node_folder: its own.
        devices: folder of CDI specifications instead of the machine's.
        settings: further ones.
    """
    place = folder / "warden.toml"
    facts = {"users": [USER], "socket": str(folder / "warden.sock"), "node_folder": str(node_folder)} | settings
    place.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in facts.items()))
    with (folder / "warden.log").open("ab") as log:
        words = ["-m", "referee.worker.warden"] if devices is None else ["-c", _ELSEWHERE, str(devices)]
        warden = subprocess.Popen([sys.executable, *words, str(place)], stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while b"listening" not in (folder / "warden.log").read_bytes():
            if warden.poll() is not None or time.monotonic() > deadline:
                raise SlurmError((folder / "warden.log").read_text())
            time.sleep(0.02)
        yield warden
    finally:
        end(warden, signal.SIGTERM)


def python_of_the_user(folder: Path) -> Path:
    """A Python with Referee that an ordinary user can start: ours may lie in root's home.

    Raises:
        SlurmError: if there is none.
    """
    if _can_start(Path(sys.executable).resolve()):
        return Path(sys.executable)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = shutil.which(version, path="/usr/bin:/bin:/usr/local/bin")
    if found is None or not _can_start(Path(found)):
        raise SlurmError(f"An ordinary user can start neither {sys.executable} nor another {version}.")
    subprocess.run([found, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    places = [place for place in sys.path if place.startswith("/") and Path(place).is_dir()]
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "referee.pth").write_text("\n".join(places) + "\n")
    return folder / "venv" / "bin" / "python"


def _can_start(program: Path) -> bool:
    try:
        done = subprocess.run(
            [program, "-c", ""], user=UID, group=UID, extra_groups=[], cwd="/", capture_output=True, check=False
        )
    except PermissionError:
        return False
    return done.returncode == 0


def commands_of_the_user(cluster: Cluster, shared: Path, folder: Path) -> dict[str, str]:
    """An environment in which Slurm's commands are the ordinary user's, though a test calls them as root.

    What root wrote into the shared folder is the user's before anything is submitted.
    """
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name in ("sbatch", "squeue", "sinfo", "scontrol", "scancel"):
        give = f"chown -R {UID}:{UID} {shared}\n" if name == "sbatch" else ""
        script = bin_folder / name
        script.write_text(
            f'#!/bin/sh\n{give}exec setpriv --reuid={UID} --regid={UID} --clear-groups {shutil.which(name)} "$@"\n'
        )
        script.chmod(0o755)
    return cluster.environment | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}


@contextlib.contextmanager
def slurm_world(cluster: Cluster, **settings: object) -> Iterator[tuple[World, Callable[..., SlurmEngine]]]:
    """A world whose attempts run on the cluster as the ordinary user, and what makes engines for it."""
    folder = cluster.folder / f"world-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    world = make_world(folder, proven=False)
    wardens = folder / "wardens"
    node = wardens / str(UID)
    node.mkdir(mode=0o700, parents=True)
    shutil.copytree(proofs(), node / "proofs")
    shutil.rmtree(world.node)
    world.node = node
    watch_leaves(node, world)
    assert world.objects.folder is not None
    for name in ("claims", "results"):
        (world.objects.folder / name).mkdir()  # a test may write there as root before the user's job does
    environment = commands_of_the_user(cluster, world.objects.folder, folder)

    def engine(**changes: object) -> SlurmEngine:
        facts = {
            "shared": world.objects.folder, "python": python_of_the_user(folder), "socket": folder / "warden.sock",
            "poll": "200ms", "staging": "10m", "silence": "60s", "reserve": "300MiB",
        }  # fmt: skip
        machines, slots = changes.pop("described", None), changes.pop("slots", 2)
        choice = SlurmChoice.model_validate(facts | changes)
        commands = SlurmCommands(environment)
        made = SlurmEngine(world.objects, choice, machines=machines, slots=slots, commands=commands)  # type: ignore[arg-type]  # as they came
        made.bring(world.data)
        return made

    with running_warden(folder, wardens, **settings):
        yield world, engine


@dataclass
class Operator:
    """The ordinary user with a challenge of his own on the cluster, who types `referee` commands.

    Attributes:
        cluster: where his attempts run.
        folder: his challenge's folder; only he may look inside.
        shared: what the nodes see of it.
    """

    cluster: Cluster
    folder: Path
    shared: Path
    python: Path

    def words(self, *arguments: str) -> list[str]:
        """The command line of a `referee` command."""
        program = "import sys; from referee.cli import main; sys.exit(main())"
        return [str(self.python), "-c", program, *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin a command, in a session of its own."""
        with (self.folder.parent / "operator.log").open("ab") as log:
            return subprocess.Popen(
                self.words(*arguments), cwd=self.folder, env=self._environment, stdout=log, stderr=log,
                user=UID, group=UID, extra_groups=[], start_new_session=True,
            )  # fmt: skip

    def referee(self, *arguments: str, status: int | None = 0) -> str:
        """Run a command to its end; its standard output. `status` is what it must end with (None: anything)."""
        done = subprocess.run(
            self.words(*arguments), cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False,
            user=UID, group=UID, extra_groups=[], timeout=600,
        )  # fmt: skip
        if status is not None and done.returncode != status:
            raise SlurmError(f"referee {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def said(self) -> str:
        """What the commands that were started have printed."""
        return (self.folder.parent / "operator.log").read_text(errors="replace")

    @property
    def _environment(self) -> dict[str, str]:
        return self.cluster.environment | {"HOME": str(self.folder.parent), "TMPDIR": str(self.folder.parent)}


@contextlib.contextmanager
def operator(cluster: Cluster, challenge: Path, *, proven: bool = False, **settings: object) -> Iterator[Operator]:
    """An operator with a copy of the challenge in `challenge`, and wardens that serve him.

    Args:
        cluster: where attempts run.
        challenge: a challenge's folder; its `[engine]` is replaced.
        proven: the nodes have proved their sandbox before.
        settings: further keys of `[engine.slurm]`.
    """
    home = cluster.folder / f"home-{secrets.token_hex(4)}"
    home.mkdir()
    folder, shared = home / "challenge", home / "shared"
    shutil.copytree(challenge, folder, symlinks=True, ignore=shutil.ignore_patterns(".referee"))
    shared.mkdir()
    python = python_of_the_user(home)
    choice: dict[str, object] = {
        "shared": str(shared), "python": str(python), "socket": str(home / "node" / "warden.sock"), "poll": "300ms",
        "staging": "10m",
    }  # fmt: skip
    text = (folder / "challenge.toml").read_text().partition("[engine]")[0]
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in (choice | settings).items())
    # The nodes claim more processors than there are, and limits on time are kept by the clock.
    slots = max(2, min(cluster.cpus * len(cluster.nodes), len(os.sched_getaffinity(0))))
    engine = f'[engine]\nname = "slurm"\nslots = {slots}\n[engine.slurm]\n{lines}'
    (folder / "challenge.toml").write_text(text + engine)
    for path in (home, *home.rglob("*")):
        os.lchown(path, UID, UID)
    (home / "node").mkdir()
    if proven:
        (home / "node" / "cache" / str(UID)).mkdir(mode=0o700, parents=True)
        shutil.copytree(proofs(), home / "node" / "cache" / str(UID) / "proofs")
    with running_warden(home / "node", home / "node" / "cache"):
        yield Operator(cluster, folder, shared, python)
