"""Slurm with slurmdbd and a database behind it: the engine asks neither, and what they forbid is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from referee.engines.contract import Job, JobState, Observation
from referee.engines.slurm import SlurmEngine
from referee.engines.slurm_doctor import examine_cluster
from referee.errors import HostError
from referee.verdicts import Verdict
from slurm_cluster import USER, Cluster, SlurmError, running_cluster
from slurm_world import slurm_world
from worker_world import GOOD, LIMITS, World, eventually

pytestmark = pytest.mark.containers

Make = Callable[..., SlurmEngine]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    limits = ["AccountingStorageEnforce=associations,limits", "JobAcctGatherFrequency=0"]
    with running_cluster(2, accounting=True, extra=limits) as made:
        for words in (
            ["account", "judges"], ["account", "hurried"], ["account", "strangers"],
            ["user", USER, "account=judges"], ["user", USER, "account=hurried", "maxwall=1"],
        ):  # fmt: skip
            made.command("sacctmgr", "-i", "add", *words, as_root=True)
        yield made


@pytest.fixture(scope="module")
def place(cluster: Cluster) -> Iterator[tuple[World, Make]]:
    with slurm_world(cluster) as made:
        yield made


def end_of(engine: SlurmEngine, job: Job) -> Observation:
    def over() -> bool:
        engine.wait(0.2)
        return engine.observe([job])[0].state is JobState.ENDED

    assert eventually(over, 60.0), engine.observe([job])
    return engine.observe([job])[0]


def test_what_an_account_does_not_allow_is_said_at_once(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    spec = world.spec(world.image(GOOD), machine_type="slurm")
    with pytest.raises(HostError, match=r"sbatch refused: .*[Ii]nvalid account"):
        make(account="strangers").submit([spec])
    hurried = make(account="hurried")
    seen = end_of(hurried, hurried.submit([world.spec(spec.image, machine_type="slurm")])[0])
    assert seen.lost_as is Verdict.UNROUTABLE
    assert "MaxWallDurationPerJobLimit" in seen.reason
    assert "allows less for one job" in seen.reason
    assert [seen.reason] == hurried.troubles()
    choice = make(account="strangers")._choice
    [*_, bad] = examine_cluster(choice, hurried.commands, machines=hurried.machines(), limits=LIMITS)
    assert (bad.name, bad.status) == ("machine type slurm", "fail")
    assert "nvalid account" in bad.seen


def test_a_node_that_went_wrong_is_drained_for_an_administrator_of_slurm_and_told_of_to_others(
    cluster: Cluster, place: tuple[World, Make]
) -> None:
    _, make = place
    bad, other = cluster.nodes

    def state(node: str) -> str:
        return cluster.command("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T %E").strip()

    for settings, why in (({}, "`engine.slurm.drain` is not set"), ({"drain": True}, "Invalid user id")):
        engine = make(account="judges", **settings)
        engine.quarantine([bad, "elsewhere"])
        [trouble] = engine.troubles()
        assert why in trouble
        assert f"scontrol update nodename={bad} state=drain" in trouble
        assert state(bad).startswith("idle")
    cluster.command("sacctmgr", "-i", "modify", "user", USER, "set", "adminlevel=admin", as_root=True)
    engine = make(account="judges", drain=True)

    def drained() -> bool:
        engine._undrained.clear()
        engine.quarantine([bad])
        return not engine.troubles()

    try:
        assert eventually(drained, 30.0), engine.troubles()  # slurmctld hears of new rights after a moment
        assert state(bad) == "drained referee: two host faults in a row"
        assert state(other).startswith("idle")
    finally:
        cluster.command("scontrol", "update", f"nodename={bad}", "state=drain", "reason=test", as_root=True)
        cluster.command("scontrol", "update", f"nodename={bad}", "state=resume", as_root=True)


def test_jobs_run_with_slurmdbd_and_go_on_when_it_is_gone(cluster: Cluster, place: tuple[World, Make]) -> None:
    world, make = place
    engine, image = make(account="judges", slots=50), world.image(GOOD)

    def run(count: int) -> list[str]:
        specs = [world.spec(image, machine_type="slurm") for _ in range(count)]
        jobs = engine.submit(specs)
        assert {end_of(engine, job).state for job in jobs} == {JobState.ENDED}
        results = [world.result(spec) for spec in specs]
        assert [result and result.verdict for result in results] == [Verdict.OK] * count
        return [job.handle for job in jobs]

    handles = run(3)

    def recorded() -> set[str]:
        words = ["sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--format=jobid,account,state"]
        return set(cluster.command(*words, as_root=True).split())

    assert eventually(lambda: {f"{handle}|judges|COMPLETED" for handle in handles} <= recorded(), 30.0), recorded()
    cluster.stop_accounting()
    with pytest.raises(SlurmError):
        recorded()
    run(2)
    assert set(engine.commands.calls) <= {"sbatch", "squeue", "sinfo", "scontrol", "scancel"}
