"""The real controller on the `memory` engine gives the kernel's trace, and what the ledger holds gives the forecast."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from campaign_world import Stage

from referee.attempts import AttemptSpec
from referee.engines.memory import Play
from referee.ledger import Ledger, queries
from referee.planning.catalogue import Catalogue, this_machine
from referee.planning.observation import Observation, Requirement, groups_of
from referee.planning.planner import Wishes, make_plan
from referee.planning.simulation import Fates, Pool, draw_fates, simulate
from referee.verdicts import Verdict

NODES = [f"n{number}" for number in range(4)]
GIB = 2**30


def lengths(count: int) -> dict[str, float]:
    drawn = np.random.default_rng(3).lognormal(2.0, 0.8, count)
    return {f"s-{number:03d}": round(float(seconds), 3) for number, seconds in enumerate(drawn)}


def test_under_the_same_draws_controller_and_kernel_give_the_same_trace(tmp_path: Path) -> None:
    seconds = lengths(40)

    def script(spec: AttemptSpec, _chance: random.Random) -> Play:
        return Play(seconds=seconds[spec.submission], predictions=b"filename,label\na.mp4,0.5\n", rows=1)

    stage = Stage(tmp_path, count=40)
    stage.run(stage.engine(script, nodes={"local": NODES}))
    with Ledger.open(stage.path) as ledger:
        ordered = sorted(queries.evaluations(ledger, "test"), key=lambda row: row.order)
        attempts = {row.evaluation: row for row in queries.attempts(ledger, phase="test")}
    began = min(row.started_at for row in attempts.values() if row.started_at is not None)
    hours = np.array([[seconds[row.submission] for row in ordered]])
    kernel = simulate(Pool(len(NODES), 0.0), hours, trace=True)
    for place, row in enumerate(ordered):
        attempt = attempts[row.evaluation]
        assert attempt.started_at is not None
        assert attempt.ended_at is not None
        assert (attempt.started_at - began).total_seconds() == pytest.approx(kernel.starts[0, place], abs=2e-3)
        assert (attempt.ended_at - began).total_seconds() == pytest.approx(kernel.ends[0, place], abs=2e-3)


@pytest.mark.parametrize("seed", [3, 8])
def test_failures_limits_and_losses_leave_the_same_trace_in_both(tmp_path: Path, seed: int) -> None:
    """Machines are taken away, submissions fail in the middle and are killed at the limit: event for event the same."""
    count, limit, rng = 60, 16.0, np.random.default_rng(seed)
    drawn = rng.lognormal(2.0, 0.8, count) * np.where(rng.random(count) < 0.2, rng.random(count), 1.0)
    seconds = np.round(np.minimum(drawn, limit), 3)
    pool = Pool(len(NODES), 0.0, spot_usd_per_hour=0.0, losses_per_hour=0.2, spot_tries=2)
    drawn_fates = draw_fates(rng, pool, 1, count, 1e4)
    # Two losses in a row on a node would quarantine it, which the kernel does not know.
    spaced = np.where((np.arange(count) % 8 == 4)[None, :, None], drawn_fates.waits, np.inf)
    fates = Fates(spaced, drawn_fates.shocks)
    place_of: dict[str, int] = {}
    tries: Counter[str] = Counter()

    def script(spec: AttemptSpec, _chance: random.Random) -> Play:
        place, number = place_of[spec.evaluation], tries[spec.evaluation]
        tries[spec.evaluation] += 1
        if number < pool.spot_tries and fates.waits[0, place, number] < seconds[place]:
            return Play(seconds=float(fates.waits[0, place, number]), verdict=Verdict.INTERRUPTED)
        verdict = Verdict.TIME_LIMIT if seconds[place] >= limit else (Verdict.OK, Verdict.NONZERO_EXIT)[place % 5 == 0]
        return Play(seconds=float(seconds[place]), verdict=verdict, predictions=b"filename,label\na.mp4,0.5\n", rows=1)

    stage = Stage(tmp_path, count=count)
    # One node with a slot for each machine: where a retry goes is no choice then.
    engine = stage.engine(script, nodes={"local": NODES[:1]}, slots=len(NODES))
    with Ledger.open(stage.path) as ledger, ledger.lead() as lease:
        campaign = stage.campaign(lease, engine)
        campaign.begin()
        place_of |= {row.evaluation: row.order for row in queries.evaluations(ledger, "test")}
        while campaign.step():
            engine.wait(2.0)
    kernel = simulate(pool, seconds[None, :], fates)
    assert int(kernel.losses[0]) >= 3
    assert stage.verdicts()[Verdict.TIME_LIMIT] >= 3
    last = {row.evaluation: row for row in stage.attempts()}
    assert len(stage.attempts()) == count + int(kernel.losses[0])
    began = min(row.started_at for row in stage.attempts() if row.started_at is not None)
    for evaluation, place in place_of.items():
        row = last[evaluation]
        assert row.started_at is not None
        assert row.ended_at is not None
        assert (row.started_at - began).total_seconds() == pytest.approx(kernel.starts[0, place], abs=2e-3)
        assert (row.ended_at - began).total_seconds() == pytest.approx(kernel.ends[0, place], abs=2e-3)


def test_what_the_ledger_holds_in_mid_run_becomes_a_plan_that_covers_what_comes(tmp_path: Path) -> None:
    seconds, began = lengths(80), {}

    def script(spec: AttemptSpec, _chance: random.Random) -> Play:
        began[spec.evaluation] = engine.now
        return Play(seconds=seconds[spec.submission], predictions=b"filename,label\na.mp4,0.5\n", rows=1)

    stage = Stage(tmp_path, count=80)
    engine = stage.engine(script, nodes={"local": NODES})
    stage.run(engine, steps=60)
    with Ledger.open(stage.path) as ledger:
        rows = queries.attempts(ledger, phase="test")
        sizes = {"cpu": queries.status(ledger, "test").total}
    seen = [
        Observation(
            row.evaluation,
            "cpu",
            row.machine_type,
            (row.measurements.wall_seconds if row.measurements else engine.now - began[row.evaluation]) / 3600,
            final=row.ended_at is not None,
        )
        for row in rows
    ]
    assert 10 < sum(each.final for each in seen) < 50
    assert sum(not each.final for each in seen) == len(NODES)
    groups = groups_of(seen, sizes, {"cpu": Requirement(1, GIB)}, {"local": 9.0})
    here = Catalogue(name="own", offers={"local": this_machine(4, 16 * GIB, slots=len(NODES))})
    plan = make_plan("small", "test", groups, here, Wishes(confidence=0.95))
    truth = sum(seconds.values()) / 3600
    assert plan.started == len(seen)
    assert plan.hours.low < truth < plan.hours.high
