"""A real Slurm cluster on this machine: munged, slurmctld and several slurmd, below one folder, on loopback only.

Jobs are submitted by an ordinary user (`nobody`), and are held by control groups as on a cluster. Whatever is started
here is a child of this process or is found by the files that it holds open below the folder, and nothing else is ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
_DATABASE_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
_ACCOUNTING = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=root
StorageLoc=accounting
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
        end(self._daemons.pop(node), signal.SIGKILL)

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
        end(self._daemons.pop("slurmctld"), signal.SIGTERM)

    def start_controller(self) -> None:
        """Start slurmctld from its saved state."""
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))

    def stop_accounting(self) -> None:
        """Kill slurmdbd; jobs are not recorded any more."""
        end(self._daemons.pop("slurmdbd"), signal.SIGKILL)

    def start_accounting(self, port: int, database_port: int) -> list[str]:
        """Start a database and slurmdbd before it; returns what slurm.conf says of them."""
        data = self.folder / "database"
        data.mkdir(mode=0o700)
        mariadbd = ["mariadbd", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-grant-tables"]
        mariadbd += ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"]
        tables = _DATABASE_TABLES.read_text(encoding="utf-8")  # slurmdbd keeps procedures in them
        subprocess.run(
            [*mariadbd, "--bootstrap"], input=f"create database mysql;\nuse mysql;\n{tables}", text=True, check=True,
            capture_output=True,
        )  # fmt: skip
        self._start(
            "database", *mariadbd, f"--socket={data}/socket", f"--port={database_port}", "--bind-address=127.0.0.1",
            "--skip-name-resolve",
        )  # fmt: skip
        _eventually(lambda: _answers(database_port))
        settings = self.folder / "slurmdbd.conf"
        settings.touch(mode=0o600)  # slurmdbd insists on it
        settings.write_text(_ACCOUNTING.format(folder=self.folder, port=port, database_port=database_port))
        self._start("slurmdbd", "slurmdbd", "-D")
        _eventually(lambda: _answers(port))
        return [
            "AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageHost=localhost",
            f"AccountingStoragePort={port}", f"AccountingStoragePass={self.folder}/munge/socket",
        ]  # fmt: skip

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
            end(daemon, signal.SIGKILL)
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


def start_cluster(
    nodes: int = 4, *, cpus: int = 2, memory_mib: int = 2000, extra: Sequence[str] = (), accounting: bool = False
) -> Cluster:
    """A cluster that takes work. Its nodes claim more than the machine has: what they promise is not measured here.

    With `accounting`, slurmdbd and a database are behind it.
    """
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
    ports = _free_ports(nodes + 3)
    lines = [_CONFIGURATION.format(folder=folder, port=ports[0])]
    lines += [
        f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
        f"RealMemory={memory_mib} Gres=gpu:t4:{GPUS}"
        for node, port in zip(cluster.nodes, ports[3:], strict=True)
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
        if accounting:
            with (folder / "slurm.conf").open("a") as file:
                file.writelines(f"{line}\n" for line in cluster.start_accounting(ports[1], ports[2]))
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


def missing_programs(*, accounting: bool = False) -> list[str]:
    """Which of Slurm's programs are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    wanted = ["munged", "slurmctld", "slurmd", "sbatch", *(["slurmdbd", "mariadbd"] if accounting else [])]
    return [name for name in wanted if shutil.which(name, path=path) is None]


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
            raise SlurmError("A daemon does not answer.")
        time.sleep(0.02)


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def end(daemon: subprocess.Popen[bytes], number: int) -> None:
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
