"""The controller on the `memory` engine: everything that can happen to a campaign, and what must come of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from campaign_world import IMAGE, Stage, ok

from referee.attempts import AttemptSpec
from referee.campaign import Campaign
from referee.challenge import MachineType
from referee.cli.app import INTERRUPTED
from referee.cli.campaigns import _closing_words as closing_words
from referee.engines.contract import Job, JobState, Observation
from referee.engines.memory import Faults, MemoryEngine, Play
from referee.errors import ConflictError
from referee.ledger import Ledger, queries
from referee.orders import dispatch_order
from referee.verdicts import Verdict

GPU = MachineType(cpus=8, memory=2**36, gpus=1, gpu_memory=2**34, reference=True)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_every_submission_is_evaluated_once(stage: Stage) -> None:
    engine = stage.engine(slots=3)
    stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 8}
    assert set(engine.executed.values()) == {1}


def test_a_challenge_that_was_moved_goes_on(stage: Stage, tmp_path: Path) -> None:
    stage.run(stage.engine(), steps=2)
    stage.data = stage.data.model_copy(update={"location": tmp_path / "elsewhere"})
    stage.run(stage.engine())
    assert stage.verdicts() == {Verdict.OK: 8}


def test_a_second_run_has_nothing_to_do(stage: Stage) -> None:
    engine = stage.engine()
    stage.run(engine)
    before = sum(engine.executed.values())
    stage.run(engine)
    assert sum(engine.executed.values()) == before
    assert stage.verdicts() == {Verdict.OK: 8}


def test_two_controllers_at_once_are_refused(stage: Stage) -> None:
    with (
        Ledger.open(stage.path) as ledger,
        ledger.lead(),
        Ledger.open(stage.path) as other,
        pytest.raises(ConflictError, match="Another controller"),
        other.lead(),
    ):
        pass


@pytest.mark.parametrize("verdict", [Verdict.NODE_LOST, Verdict.INTERRUPTED, Verdict.HOST_FULL])
def test_host_faults_are_tried_three_times_and_never_charged(tmp_path: Path, verdict: Verdict) -> None:
    stage = Stage(tmp_path, count=1)

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        return Play(verdict=verdict) if not spec.attempt.endswith(".3") else ok(spec, chance)

    stage.run(stage.engine(script, nodes={"local": ["n1", "n2", "n3"]}))
    assert stage.verdicts() == {Verdict.OK: 1}
    assert [row.verdict for row in stage.attempts()] == [verdict, verdict, Verdict.OK]


def test_a_submission_at_fault_is_final_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=3)
    stage.run(stage.engine(lambda spec, chance: Play(verdict=Verdict.MEMORY_LIMIT)))
    assert stage.verdicts() == {Verdict.MEMORY_LIMIT: 3}
    assert len(stage.attempts()) == 3


def test_what_no_machine_fits_is_unroutable_and_reopened_when_there_is_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=4, kinds=("cpu", "gpu"))
    stage.run(stage.engine())
    assert stage.verdicts() == {Verdict.OK: 2, Verdict.UNROUTABLE: 2}
    stage.run(stage.engine(machines={"gpu": GPU}))
    assert stage.verdicts() == {Verdict.OK: 4}


def test_a_fault_that_spreads_stops_the_dispatch(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=40)
    nodes = [f"n{number}" for number in range(10)]
    campaign = stage.run(stage.engine(lambda spec, chance: Play(verdict=Verdict.HOST_FULL), nodes={"local": nodes}))
    assert campaign.stopped_because
    assert len(stage.attempts()) < 40


def test_the_only_node_is_quarantined_and_the_campaign_says_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=10)
    campaign = stage.run(stage.engine(lambda spec, chance: Play(verdict=Verdict.SANDBOX_FAILED)))
    assert "quarantine" in campaign.stopped_because.lower() or "host faults" in campaign.stopped_because
    assert len(stage.attempts()) <= 4


class _Draining(MemoryEngine):
    """It can keep others' work from a node, too."""

    drained: tuple[str, ...] = ()

    def quarantine(self, nodes: Sequence[str]) -> None:
        self.drained += tuple(nodes)


def test_an_engine_that_can_is_told_of_quarantined_nodes_once_and_again_by_the_next_controller(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=10)
    for _ in range(2):
        machines = {"local": MachineType(cpus=64, memory=2**40, reference=True)}
        engine = _Draining(
            stage.objects,
            lambda spec, chance: Play(verdict=Verdict.SANDBOX_FAILED),
            machines=machines,
            nodes={"local": ["n1"]},
        )
        stage.run(engine)
        assert engine.drained == ("n1",)


def cancelled(campaign: Campaign, engine: MemoryEngine) -> Campaign:
    """Begun, cancelled after its first pass, and followed until nothing runs."""
    campaign.begin()
    campaign.step()
    campaign.cancel()
    while campaign.step():
        engine.wait(2.0)
    return campaign


def test_cancelled_work_counts_against_nobody_and_is_run_again(stage: Stage) -> None:
    engine = stage.engine(slots=2)
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        cancelled(stage.campaign(lease, engine), engine)
    assert stage.verdicts() == {None: 6, Verdict.CANCELLED: 2}
    stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 8}


def test_a_campaign_whose_last_evaluations_were_cancelled_says_that_it_is_not_done(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = stage.engine(slots=8)
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        campaign = cancelled(stage.campaign(lease, engine), engine)
        assert closing_words(ledger, "test", campaign) == INTERRUPTED
    assert "8 were cancelled" in capsys.readouterr().out


def test_what_hosts_ended_three_times_is_said_to_be_open_to_another_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(tmp_path, count=1)
    nodes = {"local": ["n1", "n2", "n3"]}
    campaign = stage.run(stage.engine(lambda spec, chance: Play(verdict=Verdict.NODE_LOST), nodes=nodes))
    with Ledger.open(stage.path) as ledger:
        assert closing_words(ledger, "test", campaign) == 0
    assert "1 did not end by a submission's doing: `referee resume`" in capsys.readouterr().out


def test_draining_ends_what_runs_and_starts_nothing_more(stage: Stage) -> None:
    engine = stage.engine(slots=2)
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        campaign = stage.campaign(lease, engine)
        campaign.begin()
        campaign.step()
        campaign.drain()
        while campaign.step():
            engine.wait(2.0)
    assert stage.verdicts() == {None: 6, Verdict.OK: 2}


def test_a_zombie_is_fenced_off_and_recorded(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=2)

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        play = ok(spec, chance)
        if spec.attempt.endswith(".1"):
            return Play(seconds=1, predictions=b"zombie", rows=1, zombie_seconds=5.0)
        return Play(seconds=60, predictions=play.predictions, rows=1)

    stage.run(stage.engine(script, nodes={"local": ["n1", "n2", "n3"]}))
    assert stage.verdicts() == {Verdict.OK: 2}
    first = [row for row in stage.attempts() if row.number == 1]
    assert all(row.verdict is Verdict.NODE_LOST and row.fenced for row in first)
    assert {row.attempt for row in stage.attempts() if row.verdict is Verdict.OK} == {"s-000.test.2", "s-001.test.2"}


def test_a_worker_too_many_runs_nothing_and_is_recorded(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=3)
    engine = stage.engine(faults=Faults(double=1.0), slots=8)
    stage.run(engine)
    stage.run(engine)  # what ends after the last pass is seen by the next controller
    assert stage.verdicts() == {Verdict.OK: 3}
    assert set(engine.executed.values()) == {1}
    assert all("second found the first one's claim" in (row.fenced or "") for row in stage.attempts())


def test_what_failed_on_a_node_asks_for_another_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path, count=1)
    asked: list[tuple[str, ...]] = []

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        asked.append(spec.avoid_nodes)
        return ok(spec, chance) if len(asked) > 2 else Play(verdict=Verdict.IMAGE_UNAVAILABLE)

    stage.run(stage.engine(script, nodes={"local": ["n1"]}))
    assert asked == [(), ("n1",), ("n1",)]


def test_a_job_that_no_machine_could_take_ends_unroutable_with_the_engine_s_reason(tmp_path: Path) -> None:
    class Hopeless(MemoryEngine):
        def observe(self, jobs: Sequence[Job]) -> list[Observation]:
            reason = "Slurm could not start the job: BadConstraints."
            return [Observation(job, JobState.ENDED, None, reason, lost_as=Verdict.UNROUTABLE) for job in jobs]

    stage = Stage(tmp_path, count=2)
    machines = {"local": MachineType(cpus=64, memory=2**40, reference=True)}
    stage.run(Hopeless(stage.objects, lambda *_: Play(seconds=1e9), machines=machines, slots=2))
    assert stage.verdicts() == {Verdict.UNROUTABLE: 2}
    assert all("BadConstraints" in row.detail for row in stage.attempts())


@pytest.mark.parametrize("seed", range(12))
def test_a_controller_killed_after_any_pass_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    """The engine loses replies, doubles and delays submissions meanwhile."""
    stage = Stage(tmp_path, count=12, kinds=("cpu", "gpu"))
    chance = random.Random(seed)
    machines = {"gpu": GPU, "cpu": MachineType(cpus=4, memory=2**35)}
    engine = stage.engine(
        slots=2, machines=machines, faults=Faults(lose_reply=0.1, double=0.2, delay=0.3, delay_seconds=20), seed=seed
    )
    for _ in range(30):
        stage.run(engine, steps=chance.randint(1, 4))
    stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 12}
    assert set(engine.executed.values()) == {1}
    assert len(stage.attempts()) == 12


def test_the_order_is_random_within_kinds_and_the_kinds_take_turns() -> None:
    rows = [
        queries.SubmissionRow(f"s-{number:03d}", "t", "gpu" if number % 4 == 0 else "cpu", IMAGE, None, None, None)
        for number in range(200)
    ]
    ordered = dispatch_order(rows, "random", seed=1)
    assert sorted(row.submission for row in ordered) == [row.submission for row in rows]
    assert ordered == dispatch_order(list(reversed(rows)), "random", seed=1)
    assert ordered != dispatch_order(rows, "random", seed=2)
    for start in range(0, 200, 20):
        assert sum(row.kind == "gpu" for row in ordered[start : start + 20]) == 5
    assert dispatch_order(rows, "manifest", seed=1) == rows
