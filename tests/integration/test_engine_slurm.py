"""What is particular to Slurm, on a real one: states told apart, silence, the warden, and nothing left behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from referee.attempts import AttemptResult, AttemptSpec
from referee.challenge import MachineType, SlurmMachine
from referee.engines.contract import Job, JobState, Observation
from referee.engines.slurm import SlurmEngine
from referee.engines.slurm_commands import SlurmCommands, array
from referee.engines.slurm_doctor import examine_cluster
from referee.engines.slurm_states import ENDINGS
from referee.errors import ConfigurationError, HostError
from referee.verdicts import Blame, Verdict, blame
from referee.worker.claims import claim_key
from referee.worker.lock import read_holder
from referee.worker.publishing import LOG, result_key
from slurm_cluster import CONFINES_DEVICES, Cluster, SlurmError, running_cluster
from slurm_world import running_warden, slurm_world
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
    return processes(marker) != []


def processes(word: str) -> list[int]:
    """Those whose command lines have it."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if word.encode() in _words(folder)]


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
    engine._queue._next_poll = 0.0
    engine.observe(jobs)
    engine.observe(jobs)
    assert engine.commands.calls["squeue"] == before + 1
    for job in jobs:
        end_of(engine, job)
    results = [world.result(spec) for spec in specs]
    assert {result.verdict for result in results if result} == {Verdict.OK}, [
        result and result.detail for result in results
    ]
    assert {result.node for spec in specs if (result := world.result(spec))} <= set(engine.nodes())
    assert set(engine.nodes_of("slurm")) == set(engine.nodes())
    assert eventually(lambda: traces(world.node) == []), traces(world.node)


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


def test_what_no_node_has_is_given_up_with_the_reason_and_the_mend(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make(staging="9h")  # the partition allows four hours
    [job] = engine.submit([world.spec(world.image(GOOD), machine_type="slurm")])
    seen = end_of(engine, job)
    assert seen.lost_as is Verdict.UNROUTABLE
    assert "PartitionTimeLimit" in seen.reason
    assert "choose another one" in seen.reason
    assert seen.reason in engine.troubles()
    engine = make()
    huge = world.spec("sha256:" + "0" * 64, machine_type="slurm", limits=LIMITS.model_copy(update={"memory": 2**40}))
    [job] = engine.submit([huge])
    [seen] = engine.observe([job])
    assert (seen.state, seen.lost_as) == (JobState.ENDED, Verdict.UNROUTABLE)
    assert "Requested node configuration is not available" in seen.reason
    assert "sinfo -Nl" in seen.reason
    with pytest.raises(ConfigurationError, match="partition nowhere has no nodes"):
        make(partition="nowhere")


TYPES = {name: MachineType(cpus=2, memory=2000 * 2**20) for name in ("here", "nowhere")}
PLACES = {"here": {"partition": "first"}, "nowhere": {"constraint": "moonlight"}}


def test_machine_types_have_room_of_their_own_and_stand_in_for_each_other(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make(slots=3, described=TYPES, machines=PLACES)
    assert engine.capacity().free == {"here": 3, "nowhere": 3}
    [busy] = engine.submit([endless(world).model_copy(update={"machine_type": "here"})])
    assert engine.capacity().free == {"here": 2, "nowhere": 3}
    [lost] = engine.submit([world.spec(world.image(GOOD), machine_type="nowhere")])
    [seen] = engine.observe([lost])
    assert seen.lost_as is Verdict.INTERRUPTED  # so it is tried again, on the type that can be had
    assert "machine type nowhere" in seen.reason
    assert set(engine.machines()) == {"here"}
    assert engine.capacity().free == {"here": 2, "nowhere": 0}
    assert engine.troubles() == [seen.reason]
    engine.cancel([busy])
    end_of(engine, busy)


def test_what_waits_too_long_is_given_up_also_by_a_controller_that_did_not_submit_it(
    cluster: Cluster, place: tuple[World, Make]
) -> None:
    world, make = place
    spec = world.spec(world.image(GOOD), machine_type="slurm")
    with cluster.drained():
        make().submit([spec])
        time.sleep(2)
        engine = make(max_wait="1s")
        [job] = engine.adopt([spec.attempt])
        [seen] = engine.observe([job])
    assert (seen.state, seen.lost_as) == (JobState.ENDED, Verdict.UNROUTABLE)
    assert "WaitedTooLong" in seen.reason
    assert "sinfo -R" in seen.reason


def test_jobs_that_wait_for_an_administrator_are_told_of(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    with cluster.drained():
        [job] = engine.submit([world.spec(world.image(GOOD), machine_type="slurm")])
        cluster.command("scontrol", "hold", job.handle, as_root=True)
        engine.adopt([job.attempt])
        assert engine.troubles() == [
            "1 jobs wait: JobHeldAdmin. An administrator holds it: ask him, or `scontrol release`."
        ]
        engine.cancel([job])
    end_of(engine, job)


# GPUs


@pytest.mark.skipif(not CONFINES_DEVICES, reason="this kernel has no group of devices (cgroup version 1)")
def test_each_job_has_the_gpus_that_slurm_gave_it_and_no_other(cluster: Cluster, tmp_path: Path) -> None:
    devices = [
        {
            "name": name,
            "containerEdits": {
                "deviceNodes": [{"path": f"/dev/nvidia{number}", "hostPath": str(cluster.folder / f"nvidia{number}")}]
            },
        }
        for number, uuid in enumerate(("GPU-zero", "GPU-one"))
        for name in (str(number), uuid)  # the same GPU by two names
    ]
    (tmp_path / "gpus.json").write_text(
        json.dumps({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": devices})
    )
    gpu = {"t4": MachineType(cpus=2, memory=2000 * 2**20, gpus=2)}
    with slurm_world(cluster, devices=tmp_path, gpus=True) as (world, make):
        engine = make(slots=50, described=gpu, machines={"t4": {"gres": "t4"}})
        image = world.image(f"echo $NVIDIA_VISIBLE_DEVICES $(ls /dev | grep nvidia); {GOOD}; sleep 1")
        same = {"machine_type": "t4", "avoid_nodes": cluster.nodes[1:]}
        one, other, none = (world.spec(image, gpus=gpus, **same) for gpus in (1, 1, 0))
        claimed = world.spec(image, gpus=1, **same)
        jobs = engine.submit([one, other])
        assert eventually(lambda: all(runs(world, engine, job)() for job in jobs))
        for job in [*jobs, *engine.submit([none, claimed.model_copy(update={"gpus": 0})])]:
            end_of(engine, job)
        said = {spec.attempt: _log(world, spec) for spec in (one, other, none)}
        assert {said[one.attempt], said[other.attempt]} == {
            "nvidia.com/gpu=GPU-zero nvidia0", "nvidia.com/gpu=GPU-one nvidia1"
        }  # fmt: skip
        assert "nvidia" not in said[none.attempt]
        refused = world.result(claimed)
        assert refused is not None
        assert refused.verdict is Verdict.SANDBOX_FAILED  # a specification gives no GPU that Slurm did not give
        assert "given 0 GPUs instead of 1" in refused.detail


def _log(world: World, spec: AttemptSpec) -> str:
    return world.objects.get(result_key(spec, LOG)).decode().strip()


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


# How jobs end


@dataclass
class Fate:
    """What became of one attempt: Slurm's word as the engine hands it on, the worker's result, what was left behind."""

    seen: Observation
    result: AttemptResult | None
    left: list[str]

    @property
    def verdict(self) -> Verdict:
        """As the controller would record it."""
        return self.result.verdict if self.result else self.seen.lost_as


@pytest.fixture(scope="module")
def fates(cluster: Cluster) -> Iterator[dict[str, Fate]]:
    """Every way in which Slurm ends a job, all of them side by side: some take Slurm half a minute to see."""
    first, second, third = cluster.nodes
    with slurm_world(cluster) as (world, make):
        engine, markers = make(slots=50), {}
        orders: dict[str, tuple[str, SlurmEngine, AttemptSpec]] = {}

        def order(name: str, node: str, engine: SlurmEngine = engine, **changes: object) -> None:
            markers[name] = f"36{secrets.randbelow(10**8)}"
            elsewhere = tuple(other for other in cluster.nodes if other != node)
            spec = endless(world, markers[name]).model_copy(update={"avoid_nodes": elsewhere, **changes})
            world.objects.put(f"specs/{spec.attempt}.json", spec.model_dump_json().encode())
            [job] = engine.submit([spec])
            orders[name] = job.handle, engine, spec

        def job_of(name: str) -> Job:
            handle, _, spec = orders[name]
            return Job(spec.attempt, handle)

        def control(*words: str) -> None:
            cluster.command("scontrol", *words, as_root=True)

        with cluster.broken_node(third):
            order("not launched", third)
            end_of(engine, job_of("not launched"))
        for name, node in (
            ("time limit", first), ("requeued", first), ("preempted", second), ("cancelled", third),
        ):  # fmt: skip
            order(name, node)
        order("lost", third)
        # Without room for the worker: it goes itself, or a submission goes that is below its own limit.
        narrow, greedy = make(reserve="1MiB"), world.image("dd if=/dev/zero of=/dev/null bs=62M count=1 || exit 3")
        small, large = (LIMITS.model_copy(update={"memory": size}) for size in (2**22, 2**26))
        order("no room", second, narrow, limits=small)
        order("room taken", second, narrow, limits=large, image=greedy)
        for name, marker in markers.items():
            assert name in {"not launched", "no room", "room taken"} or eventually(
                lambda marker=marker: inside(marker)
            ), cluster.jobs()
        for name in ("no room", "room taken"):
            end_of(narrow, job_of(name))
        # In order to be ended by Slurm at its limit, a job must not hear that it is asked to end before.
        [errand] = processes(f"slurm/{orders['time limit'][0]}")
        os.kill(errand, signal.SIGSTOP)
        control("update", f"jobid={orders['time limit'][0]}", "EndTime=now")
        with pytest.raises(SlurmError, match="disabled"):  # so we asked for it; an administrator can still
            control("requeue", orders["requeued"][0])
        control("update", f"jobid={orders['requeued'][0]}", "requeue=1")
        control("requeue", orders["requeued"][0])
        cluster.command("scancel", orders["cancelled"][0], as_root=True)
        important = ["--partition=first", f"--nodelist={second}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
        cluster.command("sbatch", *important)
        end_of(engine, job_of("cancelled"))
        cluster.lose_node(third)
        try:
            ends = {name: end_of(engine, job_of(name), 90) for name, (_, engine, _) in orders.items()}
        finally:
            cluster.start_node(third)
            cluster.wait_until_up()
        found = {}
        for name, (_, _, spec) in orders.items():
            eventually(lambda marker=markers[name]: traces(world.node, marker) == [])
            found[name] = Fate(ends[name], world.result(spec), traces(world.node, markers[name]))
        yield found


@pytest.mark.parametrize(
    ("fate", "words", "verdict"),
    [
        ("not launched", "could not start the job", Verdict.NODE_LOST),
        ("time limit", "Slurm: TIMEOUT", Verdict.INTERRUPTED),
        ("no room", "Slurm: OUT_OF_MEMORY", Verdict.HOST_FULL),
        ("room taken", "Slurm: COMPLETED", Verdict.HOST_FULL),  # the worker saw it, and said so
        ("cancelled", "Slurm: CANCELLED", Verdict.INTERRUPTED),
        ("requeued", "An attempt is one execution", Verdict.INTERRUPTED),
        ("preempted", "Slurm: PREEMPTED", Verdict.INTERRUPTED),
        ("lost", "Slurm: NODE_FAIL", Verdict.NODE_LOST),
    ],
)
def test_the_ways_in_which_slurm_ends_a_job_are_told_apart(
    fates: dict[str, Fate], fate: str, words: str, verdict: Verdict
) -> None:
    seen = fates[fate]
    assert words in seen.seen.reason, seen
    assert seen.verdict is verdict, seen
    assert blame(seen.verdict) is Blame.HOST
    assert seen.left == []


def test_where_a_job_ended_is_known(cluster: Cluster, fates: dict[str, Fate]) -> None:
    nodes = {name: fate.seen.node for name, fate in fates.items()}
    first, second, third = cluster.nodes
    assert nodes.pop("requeued") in {first, None}  # Slurm has forgotten it: it waited for another node
    assert nodes == {
        "not launched": third, "time limit": first, "no room": second, "room taken": second, "cancelled": third,
        "preempted": second, "lost": third,
    }  # fmt: skip


def test_a_worker_ends_in_order_before_slurm_s_limit(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine, spec = make(), endless(world)
    [job] = engine.submit([spec])
    assert eventually(runs(world, engine, job))
    # Less is left than the minute before the limit at which Slurm asks it to.
    cluster.command("scontrol", "update", f"jobid={job.handle}", "EndTime=now+50seconds", as_root=True)
    seen = end_of(engine, job, 90)
    result = world.result(spec)
    assert result is not None, seen
    assert (result.verdict, result.detail) == (
        Verdict.INTERRUPTED,
        "The worker was told to stop while the container ran.",
    )
    assert "COMPLETED" in seen.reason


def test_of_what_jobs_print_only_the_words_of_those_that_failed_are_kept(place: tuple[World, Make]) -> None:
    world, make = place
    assert world.objects.folder is not None
    engine, deaf = make(), make(socket=world.folder / "nowhere.sock")
    image = world.image(GOOD)
    [good] = engine.submit([world.spec(image, machine_type="slurm")])
    [bad] = deaf.submit([world.spec(image, machine_type="slurm")])
    end_of(engine, good)
    end_of(deaf, bad)
    [kept] = (world.objects.folder / "slurm").iterdir()
    assert "No warden answers" in kept.read_text()


# Under fire


def test_slurm_s_silence_ends_nothing_and_is_said_when_it_lasts(cluster: Cluster, place: tuple[World, Make]) -> None:
    """slurmctld is away for a while; the job goes on, and is followed again afterwards."""
    world, make = place
    engine, impatient = make(), make(silence="100ms")
    spec = world.spec(world.image(f"{GOOD}; sleep 4"), machine_type="slurm")
    [job] = engine.submit([spec])
    assert eventually(runs(world, engine, job))
    cluster.stop_controller()
    try:
        engine._queue._next_poll = 0.0
        assert engine.observe([job])[0].state is JobState.RUNNING
        assert set(engine.capacity().free.values()) == {0}
        assert "has not answered" in engine.troubles()[0]

        def ask() -> bool:
            impatient._queue._next_poll = 0.0
            impatient.observe([job])
            return False

        with pytest.raises(HostError, match="has not answered") as error:
            eventually(ask, 60)
        assert "scontrol ping" in str(error.value.hint)
        assert eventually(lambda: world.result(spec) is not None, 60)
    finally:
        cluster.start_controller()
    cluster.wait_until_up()
    end_of(engine, job)
    result = world.result(spec)
    assert result is not None
    assert result.verdict is Verdict.OK


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


# The way to the nodes


def test_the_doctor_says_what_the_cluster_lacks(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    choice = engine._choice.model_copy(update={"machines": {"moon": SlurmMachine(constraint="moonlight")}})
    gpu = {"t4": MachineType(cpus=2, memory=2**31, gpus=1)}
    checks = {check.name: check for check in examine_cluster(choice, engine.commands, machines=gpu, limits=LIMITS)}
    assert checks.pop("control groups").status == ("ok" if CONFINES_DEVICES else "warn")
    assert {check.status for check in checks.values()} == {"ok"}, checks
    assert "--gres=gpu:1" in checks["machine type t4"].seen
    moon = examine_cluster(choice, engine.commands, machines={"moon": gpu["t4"]}, limits=LIMITS)
    assert [check.name for check in moon if check.status == "fail"] == ["machine type moon"]
    nowhere = choice.model_copy(update={"socket": world.folder / "nowhere.sock"})
    [*others, warden] = examine_cluster(nowhere, engine.commands)
    assert (warden.name, warden.status) == ("warden", "fail")
    assert "No warden answers" in warden.seen
    assert {check.status for check in others} == {"ok"}
    [absent] = examine_cluster(choice, SlurmCommands({"PATH": "/nowhere"}))
    assert (absent.status, absent.seen) == ("fail", "scontrol is not installed here.")


def test_without_a_warden_the_attempt_is_lost_with_the_reason(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make(socket=world.folder / "nowhere.sock")
    [job] = engine.submit([world.spec(world.image(GOOD), machine_type="slurm")])
    seen = end_of(engine, job)
    assert seen.lost_as is Verdict.NODE_LOST
    assert "No warden answers" in seen.reason


# The warden


def test_whoever_connects_and_says_nothing_keeps_nobody_waiting(place: tuple[World, Make]) -> None:
    world, make = place
    engine = make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(world.folder / "warden.sock"))
        spec = world.spec(world.image(GOOD), machine_type="slurm")
        [job] = engine.submit([spec])
        end_of(engine, job)
        assert world.result(spec) is not None


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


@pytest.mark.parametrize("cap", [{"cache": "4KiB"}, {"data": "1KiB"}])
def test_a_node_keeps_no_more_than_its_owner_gives(cluster: Cluster, cap: dict[str, str]) -> None:
    with slurm_world(cluster, **cap) as (world, make):
        engine = make()
        spec = world.spec(world.image(GOOD), machine_type="slurm")
        [job] = engine.submit([spec])
        end_of(engine, job)
        result = world.result(spec)
        assert result is not None
        assert result.verdict is Verdict.HOST_FULL
        assert "more room" in result.detail


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
