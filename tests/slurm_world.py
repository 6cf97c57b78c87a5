"""A real Slurm cluster on this machine: munged, slurmctld and several slurmd, below one folder, on loopback only.

Jobs are submitted by an ordinary user (`nobody`), and are held by control groups as on a cluster. Whatever is started
here is a child of this process or is found by the files that it holds open below the folder, and nothing else is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from referee.challenge import SlurmChoice
from referee.engines.slurm import SlurmEngine
from referee.engines.slurm_commands import SlurmCommands
from worker_world import World, make_world, proofs, watch_leaves

USER = "nobody"
UID = 65534
START_SECONDS = 60.0
GPUS = 2  # of each node
CONFINES_DEVICES = Path("/sys/fs/cgroup/devices").is_dir()

_CONFIGURATION = """
ClusterName=referee
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
KillWait=5
MessageTimeout=4
SlurmdTimeout=6
MaxArraySize=1001
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
"""


class SlurmError(RuntimeError):
    """The cluster did not do what was asked."""


@dataclass
class Cluster:
    """The cluster. `nodes` are its nodes' names."""

    folder: Path
    nodes: tuple[str, ...]
    cpus: int
    memory_mib: int
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need."""
        return {"PATH": os.environ["PATH"], "SLURM_CONF": str(self.folder / "slurm.conf"), "HOME": "/", "TZ": "UTC"}

    def command(self, *words: str, as_root: bool = False) -> str:
        """The output of a command, run as the ordinary user."""
        who = {} if as_root else {"user": UID, "group": UID, "extra_groups": []}
        done = subprocess.run(
            words, capture_output=True, text=True, env=self.environment, cwd="/", check=False, timeout=60, **who
        )
        if done.returncode:
            raise SlurmError(f"{words}: {done.stderr.strip()}")
        return done.stdout

    def start_node(self, node: str) -> None:
        """Start the node's slurmd."""
        self._start(node, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def stop_daemon(self, node: str) -> None:
        """Kill the node's slurmd alone: its jobs go on."""
        _end(self._daemons.pop(node), signal.SIGKILL)

    def lose_node(self, node: str) -> None:
        """The node vanishes with everything on it."""
        self.stop_daemon(node)
        deadline = time.monotonic() + 20
        while victims := [*self._step_daemons(node), *_members(f"slurm_{node}")]:
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise SlurmError(f"Processes of {node} do not end: {victims}")
            time.sleep(0.02)

    @contextlib.contextmanager
    def broken_node(self, node: str) -> Iterator[None]:
        """The node's slurmd answers, but cannot begin a job: its spool is a file."""
        spool, aside = self.folder / f"spool.{node}", self.folder / f"aside.{node}"
        spool.rename(aside)
        spool.touch()
        try:
            yield
        finally:
            spool.unlink()
            aside.rename(spool)

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """No node takes new work."""
        words = ["scontrol", "update", f"nodename={','.join(self.nodes)}"]
        self.command(*words, "state=drain", "reason=test", as_root=True)
        try:
            yield
        finally:
            self.command(*words, "state=resume", as_root=True)

    def stop_controller(self) -> None:
        """Kill slurmctld; commands are not answered any more."""
        _end(self._daemons.pop("slurmctld"), signal.SIGTERM)

    def start_controller(self) -> None:
        """Start slurmctld from its saved state."""
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))

    def wait_until_up(self) -> None:
        """Until every node that has a daemon takes work."""
        wanted = set(self.nodes) & set(self._daemons)
        deadline = time.monotonic() + START_SECONDS
        states: dict[str, str] = {}
        while {node for node, state in states.items() if state in {"idle", "mixed", "allocated"}} < wanted:
            if time.monotonic() > deadline:
                raise SlurmError(f"The cluster is not up after {START_SECONDS} s: {states}. {self._words()}")
            time.sleep(0.1)
            with contextlib.suppress(SlurmError, subprocess.TimeoutExpired):
                lines = self.command("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
                states = dict(line.split() for line in lines)

    def jobs(self) -> str:
        """The queue, for a person."""
        return self.command("squeue", "--array", "--states=all", "-o", "%i %T %N %r %j")

    def stop(self) -> None:
        """End everything, and remove the cluster's control groups."""
        with contextlib.suppress(SlurmError, subprocess.TimeoutExpired):
            self.command("scancel", "--signal=KILL", "--full", f"--user={USER}", as_root=True)
            self.command("scancel", f"--user={USER}", as_root=True)
        for node in self.nodes:
            if node in self._daemons:
                self.lose_node(node)
        for daemon in self._daemons.values():
            _end(daemon, signal.SIGKILL)
        self._daemons.clear()
        for node in self.nodes:
            for place in _groups(f"slurm_{node}"):
                _remove_tree(place)

    def _start(self, name: str, *words: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", start_new_session=True,
                env=os.environ | self.environment,
            )  # fmt: skip

    def _step_daemons(self, node: str) -> list[int]:
        """slurmstepd leaves slurmd's session; it is known by the log of its node, which it holds open."""
        return list(_holding(str(self.folder / "log" / f"slurmd.{node}.log")))

    def _words(self) -> str:
        logs = sorted((self.folder / "log").glob("*"))
        return " | ".join(f"{log.name}: {log.read_text(errors='replace')[-300:]}" for log in logs)


def start_cluster(nodes: int = 4, *, cpus: int = 2, memory_mib: int = 2000, extra: Sequence[str] = ()) -> Cluster:
    """A cluster that takes work. Its nodes claim more than the machine has: what they promise is not measured here."""
    folder = Path(tempfile.mkdtemp(prefix="referee-slurm-"))
    folder.chmod(0o755)
    # The name of a node is that of its control group, of which this machine has one tree.
    prefix = f"n{secrets.token_hex(2)}x"
    cluster = Cluster(folder, tuple(f"{prefix}{number}" for number in range(1, nodes + 1)), cpus, memory_mib)
    for name in ("munge", "state", "log"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    for number in range(GPUS):
        # Slurm takes character devices only. No driver has this number (devices.txt: local use), so nothing is behind
        # them; who may open them is the kernel's to say, and that is what is looked at.
        os.mknod(folder / f"nvidia{number}", stat.S_IFCHR | 0o600, os.makedev(240, number))
        (folder / f"nvidia{number}").chmod(0o666)
    (folder / "gres.conf").write_text(
        "".join(f"NodeName={node} Name=gpu Type=t4 File={folder}/nvidia[0-{GPUS - 1}]\n" for node in cluster.nodes)
    )
    (folder / "cgroup.conf").write_text(
        "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"
        "ConstrainRAMSpace=yes\nMinRAMSpace=1\nConstrainCores=no\n"
        f"ConstrainDevices={'yes' if CONFINES_DEVICES else 'no'}\n"
    )
    ports = _free_ports(nodes + 1)
    lines = [_CONFIGURATION.format(folder=folder, port=ports[0])]
    lines += [
        f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
        f"RealMemory={memory_mib} Gres=gpu:t4:{GPUS}"
        for node, port in zip(cluster.nodes, ports[1:], strict=True)
    ]
    everywhere = ",".join(cluster.nodes)
    lines.append(f"PartitionName=main Nodes={everywhere} Default=YES State=UP MaxTime=4:00:00 PriorityTier=1")
    lines.append(f"PartitionName=first Nodes={everywhere} State=UP MaxTime=4:00:00 PriorityTier=10")
    (folder / "slurm.conf").write_text("\n".join([*lines, *extra, ""]))
    try:
        cluster._start(
            "munged", "munged", "--foreground", "--force", f"--socket={folder}/munge/socket", f"--key-file={key}",
            f"--log-file={folder}/log/munged.log", f"--pid-file={folder}/munge/pid",
            f"--seed-file={folder}/munge.seed", "--num-threads=2",
        )  # fmt: skip
        _eventually((folder / "munge" / "socket").exists)
        cluster.start_controller()
        for node in cluster.nodes:
            cluster.start_node(node)
        cluster.wait_until_up()
    except BaseException:
        cluster.stop()
        raise
    return cluster


@contextlib.contextmanager
def running_cluster(nodes: int = 4, **settings: object) -> Iterator[Cluster]:
    """A cluster for as long as the context lasts."""
    cluster = start_cluster(nodes, **settings)  # type: ignore[arg-type]  # handed on as they came
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)


def missing_programs() -> list[str]:
    """Which of Slurm's programs are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=path) is None]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SlurmError("munged does not answer")
        time.sleep(0.02)


def _end(daemon: subprocess.Popen[bytes], number: int) -> None:
    daemon.send_signal(number)
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _holding(path: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            open_files = [os.fspath(entry.readlink()) for entry in (folder / "fd").iterdir()]
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if path in open_files and words.startswith(b"slurmstepd"):
            yield int(folder.name)


def _groups(name: str) -> list[Path]:
    return [place for tree in Path("/sys/fs/cgroup").iterdir() if (place := tree / name).is_dir()]


def _members(name: str) -> list[int]:
    found: set[int] = set()
    for place in _groups(name):
        for file in place.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(map(int, file.read_text().split()))
    return sorted(found)


def _remove_tree(place: Path) -> None:
    for folder in sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()
    with contextlib.suppress(OSError):
        place.rmdir()


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
        _end(warden, signal.SIGTERM)


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
def operator(cluster: Cluster, challenge: Path, **settings: object) -> Iterator[Operator]:
    """An operator with a copy of the challenge in `challenge`, and wardens that serve him.

    Args:
        cluster: where attempts run.
        challenge: a challenge's folder; its `[engine]` is replaced.
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
    with running_warden(home / "node", home / "node" / "cache"):
        yield Operator(cluster, folder, shared, python)
