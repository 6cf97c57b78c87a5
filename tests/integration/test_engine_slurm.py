"""What is particular to Slurm, on a real one: states told apart, silence, the warden, and nothing left behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from referee.attempts import AttemptSpec
from referee.engines.contract import Job, JobState, Observation
from referee.engines.slurm import SlurmEngine
from referee.engines.slurm_commands import ENDINGS, SlurmCommands, array
from referee.engines.slurm_doctor import examine_cluster
from referee.errors import HostError
from referee.verdicts import Blame, Verdict, blame
from referee.worker.claims import claim_key
from referee.worker.lock import read_holder
from slurm_world import UID, Cluster, running_cluster, running_warden, slurm_world
from worker_world import GOOD, LIMITS, World, eventually, traces

pytestmark = pytest.mark.containers

Make = Callable[..., SlurmEngine]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster(3, cpus=2) as made:
        yield made


@pytest.fixture
def place(cluster: Cluster) -> Iterator[tuple[World, Make]]:
    with slurm_world(cluster) as made:
        yield made


def endless(world: World, marker: str = "3600") -> AttemptSpec:
    return world.spec(world.image(f"setsid sleep {marker} & {GOOD}; sleep {marker}"), machine_type="slurm")


def runs(world: World, engine: SlurmEngine, job: Job) -> Callable[[], bool]:
    def seen() -> bool:
        engine.wait(0.1)
        return engine.observe([job])[0].state is JobState.RUNNING and world.objects.exists(claim_key(job.attempt))

    return seen


def inside(marker: str) -> bool:
    return any(marker.encode() in _words(folder) for folder in Path("/proc").glob("[0-9]*"))


def _words(folder: Path) -> bytes:
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""


def end_of(engine: SlurmEngine, job: Job, seconds: float = 60.0) -> Observation:
    def over() -> bool:
        engine.wait(0.2)
        return engine.observe([job])[0].state is JobState.ENDED

    assert eventually(over, seconds), engine.observe([job])
    return engine.observe([job])[0]


# What Slurm says


def test_arrays_are_written_in_runs() -> None:
    assert array([7, 0, 1, 2, 9, 8]) == "0-2,7-9"
    assert array([5]) == "5"


def test_no_way_in_which_slurm_ends_a_job_is_held_against_the_submission() -> None:
    assert {blame(ended.verdict) for ended in ENDINGS.values()} == {Blame.HOST}


def test_a_whole_wave_is_one_submission_and_all_jobs_are_one_question(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make(slots=50)
    image = world.image(GOOD)
    specs = [world.spec(image, machine_type="slurm") for _ in range(8)]
    jobs = engine.submit(specs)
    assert engine.commands.calls["sbatch"] == 1
    assert len({job.handle.partition("_")[0] for job in jobs}) == 1
    before = engine.commands.calls["squeue"]
    engine._next_poll = 0.0
    engine.observe(jobs)
    engine.observe(jobs)
    assert engine.commands.calls["squeue"] == before + 1
    for job in jobs:
        end_of(engine, job)
    assert {result.verdict for spec in specs if (result := world.result(spec))} == {Verdict.OK}
    assert {result.node for spec in specs if (result := world.result(spec))} <= set(engine.nodes())
    assert eventually(lambda: traces(world.node) == []), traces(world.node)


def test_a_job_that_an_administrator_cancels_was_interrupted(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine, marker = make(), f"36{secrets.randbelow(10**8)}"
    spec = endless(world, marker)
    [job] = engine.submit([spec])
    assert eventually(runs(world, engine, job))
    assert eventually(lambda: inside(marker))
    cluster.command("scancel", job.handle, as_root=True)
    end_of(engine, job)
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.INTERRUPTED
    assert eventually(lambda: traces(world.node, marker) == []), traces(world.node, marker)


def test_a_job_that_is_preempted_was_interrupted(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    spec = endless(world)
    [job] = engine.submit([spec])
    assert eventually(runs(world, engine, job))
    first = cluster.command(
        "sbatch",
        "--parsable",
        "--partition=first",
        "--nodes=3",
        "--exclusive",
        "--output=/dev/null",
        "--wrap",
        "sleep 1",
    ).strip()
    seen = end_of(engine, job)
    result = world.result(spec)
    assert (result.verdict if result else seen.lost_as) is Verdict.INTERRUPTED
    cluster.command("scancel", first)


def test_a_worker_that_is_killed_leaves_nothing_and_its_node_is_known(place: tuple[World, Make]) -> None:
    world, make = place
    engine, marker = make(), f"36{secrets.randbelow(10**8)}"
    spec = endless(world, marker)
    [job] = engine.submit([spec])
    assert eventually(lambda: inside(marker))
    holder = read_holder(world.node, spec.attempt)
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    seen = end_of(engine, job)
    assert seen.lost_as is Verdict.NODE_LOST
    assert seen.node in engine.nodes()
    assert world.result(spec) is None
    assert eventually(lambda: traces(world.node, marker) == []), traces(world.node, marker)


def test_a_job_without_its_user_s_process_ends_with_everything_in_it(place: tuple[World, Make]) -> None:
    """The process that reaches the object store is killed: nothing could be published any more."""
    world, make = place
    engine, marker = make(), f"36{secrets.randbelow(10**8)}"
    spec = endless(world, marker)
    [job] = engine.submit([spec])
    assert eventually(lambda: inside(marker))
    for folder in Path("/proc").glob("[0-9]*"):
        words = _words(folder)
        if b"referee.worker.errand" in words and str(world.folder).encode() in words:
            os.kill(int(folder.name), signal.SIGKILL)
    end_of(engine, job)
    assert eventually(lambda: traces(world.node, marker) == []), traces(world.node, marker)


def test_what_no_node_has_is_refused_or_given_up_with_the_reason(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make(staging="9h")  # the partition allows four hours
    [job] = engine.submit([world.spec(world.image(GOOD), machine_type="slurm")])
    seen = end_of(engine, job)
    assert seen.lost_as is Verdict.UNROUTABLE
    assert "PartitionTimeLimit" in seen.reason
    assert "choose another one" in seen.reason
    huge = world.spec("sha256:" + "0" * 64, machine_type="slurm", limits=LIMITS.model_copy(update={"memory": 2**40}))
    with pytest.raises(HostError, match="sbatch refused"):
        make().submit([huge])


def test_what_waits_too_long_is_given_up(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    nodes = ",".join(cluster.nodes)
    cluster.command("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=test", as_root=True)
    try:
        engine = make(max_wait="1s")
        [job] = engine.submit([world.spec(world.image(GOOD), machine_type="slurm")])
        seen = end_of(engine, job)
    finally:
        cluster.command("scontrol", "update", f"nodename={nodes}", "state=resume", as_root=True)
    assert seen.lost_as is Verdict.UNROUTABLE
    assert "WaitedTooLong" in seen.reason


def test_a_node_to_be_avoided_is_avoided_and_the_only_one_is_not(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine, image = make(slots=50), world.image(GOOD)
    *others, wanted = cluster.nodes
    specs = [world.spec(image, machine_type="slurm", avoid_nodes=tuple(others)) for _ in range(3)]
    everywhere = world.spec(image, machine_type="slurm", avoid_nodes=cluster.nodes)
    for job in engine.submit([*specs, everywhere]):
        end_of(engine, job)
    assert {result.node for spec in specs if (result := world.result(spec))} == {wanted}
    assert world.result(everywhere) is not None


# Under fire


def test_slurm_s_silence_ends_nothing(cluster: Cluster, place: tuple[World, Make]) -> None:
    """slurmctld is away for a while; the job goes on, and is followed again afterwards."""
    world, make = place
    engine = make()
    spec = world.spec(world.image(f"{GOOD}; sleep 4"), machine_type="slurm")
    [job] = engine.submit([spec])
    assert eventually(runs(world, engine, job))
    cluster.stop_controller()
    try:
        engine._next_poll = 0.0
        assert engine.observe([job])[0].state is JobState.RUNNING
        assert set(engine.capacity().free.values()) == {0}
        assert "has not answered" in engine.troubles()[0]
        assert eventually(lambda: world.result(spec) is not None, 60)
    finally:
        cluster.start_controller()
    cluster.wait_until_up()
    end_of(engine, job)
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.OK


def test_a_silence_that_lasts_is_said_with_the_mend(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine = make(silence="500ms")
    [job] = engine.submit([world.spec(world.image(GOOD), machine_type="slurm")])
    end_of(engine, job)
    cluster.stop_controller()

    def ask() -> bool:
        engine.wait(0.3)
        engine.observe([job])
        return False

    try:
        with pytest.raises(HostError, match="has not answered"):
            eventually(ask, 60)
    finally:
        cluster.start_controller()
    cluster.wait_until_up()


def test_slurmd_killed_and_started_again_loses_no_job(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    spec = world.spec(world.image(f"{GOOD}; sleep 3"), machine_type="slurm")
    [job] = engine.submit([spec])
    assert eventually(runs(world, engine, job))
    node = engine.observe([job])[0].node
    assert node is not None
    cluster.stop_daemon(node)
    cluster.start_node(node)
    end_of(engine, job)
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.OK


def test_a_lost_node_is_seen_and_takes_everything_with_it(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine, marker = make(), f"36{secrets.randbelow(10**8)}"
    spec = endless(world, marker)
    [job] = engine.submit([spec])
    assert eventually(lambda: inside(marker))
    node = engine.observe([job])[0].node or end_of(engine, job).node
    assert node is not None
    cluster.lose_node(node)
    try:
        seen = end_of(engine, job, 90)
    finally:
        cluster.start_node(node)
        cluster.wait_until_up()
    assert (seen.lost_as, seen.node) == (Verdict.NODE_LOST, node)
    assert "NODE_FAIL" in seen.reason
    assert eventually(lambda: traces(world.node, marker) == []), traces(world.node, marker)


# The way to the nodes


def test_the_doctor_says_what_the_cluster_lacks(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    checks = {check.name: check for check in examine_cluster(engine._choice, engine.commands)}
    assert {check.status for check in checks.values()} == {"ok"}, checks
    nowhere = engine._choice.model_copy(update={"socket": world.folder / "nowhere.sock"})
    [*others, warden] = examine_cluster(nowhere, engine.commands)
    assert (warden.name, warden.status) == ("warden", "fail")
    assert "No warden answers" in warden.seen
    assert {check.status for check in others} == {"ok"}
    [absent] = examine_cluster(engine._choice, SlurmCommands({"PATH": "/nowhere"}))
    assert (absent.status, absent.seen) == ("fail", "scontrol is not installed here.")


def test_without_a_warden_the_attempt_is_lost_with_the_reason(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make(socket=world.folder / "nowhere.sock")
    [job] = engine.submit([world.spec(world.image(GOOD), machine_type="slurm")])
    seen = end_of(engine, job)
    assert seen.lost_as is Verdict.NODE_LOST
    assert "No warden answers" in seen.reason


# Attacks on the warden


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


def test_the_warden_serves_nobody_outside_of_a_job(place: tuple[World, Make]) -> None:
    world, _ = place
    answer = _ask(world.folder / "warden.sock", REQUEST)
    assert "no Slurm job's control groups" in str(answer["refused"])
    assert list(world.node.glob("run/*/box")) == []


def test_the_warden_serves_only_those_who_are_named(place: tuple[World, Make]) -> None:
    world, _ = place
    assert "not among the users" in str(_ask(world.folder / "warden.sock", REQUEST, uid=65533)["refused"])


def test_who_is_refused_reads_why_however_late_he_asks(place: tuple[World, Make]) -> None:
    """A stranger who is answered before he asked may find the connection reset instead of the answer."""
    world, _ = place
    answer = _ask(world.folder / "warden.sock", REQUEST, uid=65533, pause_seconds=0.5)
    assert "not among the users" in str(answer["refused"])


def test_strangers_who_say_nothing_do_not_pile_up(place: tuple[World, Make]) -> None:
    world, _ = place
    program = (
        "import socket, sys\n"
        "def connect():\n"
        "    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); return s\n"
        "first, *others = [connect() for _ in range(100)]\n"
        "print(first.recv(65536).decode())\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", program, str(world.folder / "warden.sock")],
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
    assert "no Slurm job's control groups" in str(_ask(world.folder / "warden.sock", REQUEST)["refused"])


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
def test_odd_requests_are_refused_and_the_warden_goes_on(place: tuple[World, Make], message: bytes) -> None:
    world, _ = place
    assert "refused" in _ask(world.folder / "warden.sock", message)
    assert "refused" in _ask(world.folder / "warden.sock", REQUEST, send_socket=False)


def test_whoever_connects_and_says_nothing_keeps_nobody_waiting(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(world.folder / "warden.sock"))
        spec = world.spec(world.image(GOOD), machine_type="slurm")
        [job] = engine.submit([spec])
        end_of(engine, job)
        assert world.result(spec) is not None


def test_a_file_that_others_may_write_is_not_obeyed(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "warden.toml"
    place.write_text('users = ["nobody"]\n')
    place.chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-m", "referee.worker.warden", str(place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "can be written by others" in done.stderr


def test_risks_that_the_machine_s_owner_does_not_accept_end_the_attempt(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    spec = world.spec(world.image(GOOD), machine_type="slurm", accepted_risks=("no_network",))
    [job] = engine.submit([spec])
    end_of(engine, job)
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.SANDBOX_FAILED
    assert "does not accept the risks no_network" in result.detail


def test_a_warden_that_is_replaced_ends_no_worker(cluster: Cluster) -> None:
    with slurm_world(cluster) as (world, make):
        engine = make()
        spec = world.spec(world.image(f"{GOOD}; sleep 3"), machine_type="slurm")
        [job] = engine.submit([spec])
        assert eventually(runs(world, engine, job))
        with running_warden(world.folder, world.node.parent):
            end_of(engine, job)
        result = world.result(spec)
        assert result is not None
        assert result.verdict is Verdict.OK
