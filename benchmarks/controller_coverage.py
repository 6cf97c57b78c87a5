"""Whole campaigns through the real controller, on the `memory` engine in virtual time: do forecasts cover there too?"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from referee.attempts import AttemptSpec
from referee.campaign import Campaign
from referee.challenge import MachineType, load_challenge
from referee.engines.memory import MemoryEngine, Play
from referee.ledger import Identity, Ledger, PhaseRecorded, SubmissionImported, queries
from referee.objects import ObjectStore
from referee.phases import record_phase
from referee.planning.forecast import Stratum, forecast
from referee.planning.observation import Observation, Requirement, groups_of
from referee.planning.runtime import Runtimes
from referee.planning.simulation import Pool, simulate

EVALUATIONS, NODES, LIMIT_SECONDS = 80, 5, 40.0
MOMENTS = {"25%": 20, "50%": 40}


def campaign(folder: Path, seconds: dict[str, float]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """One campaign; for each moment and quantity low and high of the 90% interval, and the truth, in seconds."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a.mp4").write_bytes(b"x")
    (folder / "challenge.toml").write_text('name = "small"\n[phases.test]\ndata = "data"\nvisibility = "private"\n')
    challenge = load_challenge(folder)
    data, objects = record_phase(challenge, "test"), ObjectStore(folder / "objects")
    began: dict[str, float] = {}

    def script(spec: AttemptSpec, _chance: random.Random) -> Play:
        began[spec.evaluation] = engine.now
        return Play(seconds=seconds[spec.submission], predictions=b"filename,label\na.mp4,0.5\n", rows=1)

    engine = MemoryEngine(
        objects,
        script,
        machines={"local": MachineType(cpus=64, memory=2**40, reference=True)},
        nodes={"local": [f"n{number}" for number in range(NODES)]},
    )
    with Ledger.create(folder / "ledger.sqlite", campaign="c", challenge_name="small") as ledger:
        ledger.append([PhaseRecorded(phase="test", data_digest=data.digest, files=1)])
        for name in seconds:
            who = Identity.new(name, f"t{name}", name, name)
            event = SubmissionImported(
                submission=who.submission,
                team=who.team,
                submission_kind="cpu",
                image="sha256:" + "0" * 64,
                identity_commitment=who.commitment,
            )
            ledger.append([event], identities=[who])
        found: dict[str, dict[str, tuple[float, float]]] = {}
        with ledger.lead() as lease:
            run = Campaign(challenge, lease, engine, objects, data, "test")
            run.begin()
            while run.step():
                done = queries.status(ledger, "test").done
                for moment, least in MOMENTS.items():
                    if moment not in found and done >= least:
                        found[moment] = _forecast(ledger, engine.now, began)
                engine.wait(2.0)
    truth = {"hours": sum(seconds.values()), "end": engine.now}
    return {m: {q: (*ends, truth[q]) for q, ends in quantities.items()} for m, quantities in found.items()}


def _forecast(ledger: Ledger, now: float, began: dict[str, float]) -> dict[str, tuple[float, float]]:
    seen = [
        Observation(
            row.evaluation,
            "cpu",
            row.machine_type,
            row.measurements.wall_seconds if row.measurements else now - began[row.evaluation],
            final=row.ended_at is not None,
        )
        for row in queries.attempts(ledger, phase="test")
    ]
    (group,) = groups_of(seen, {"cpu": EVALUATIONS}, {"cpu": Requirement(1, 2**30)}, {"local": LIMIT_SECONDS})
    expected = forecast([Stratum("cpu", EVALUATIONS, "local", 1.0, group.seen["local"])], {"local": NODES})
    return {
        "hours": (expected.hours.low, expected.hours.high),
        "end": (now + expected.end_hours.low, now + expected.end_hours.high),
    }


def study(number: int, seed: int) -> dict[str, dict[str, float]]:
    """For each moment and quantity, the share of campaigns whose 90% interval held the truth."""
    rng = np.random.default_rng(seed)
    hits: dict[str, dict[str, list[bool]]] = {m: {"hours": [], "end": []} for m in MOMENTS}
    for _ in range(number):
        drawn = np.minimum(rng.lognormal(1.8, 0.8, EVALUATIONS), LIMIT_SECONDS)
        seconds = {f"s-{place:03d}": float(length) for place, length in enumerate(drawn)}
        with tempfile.TemporaryDirectory() as folder:
            for moment, quantities in campaign(Path(folder) / "challenge", seconds).items():
                for quantity, (low, high, truth) in quantities.items():
                    hits[moment][quantity].append(low <= truth <= high)
    return {m: {q: float(np.mean(held)) for q, held in quantities.items()} for m, quantities in hits.items()}


def in_kernel(number: int, seed: int) -> dict[str, dict[str, float]]:
    """The same campaigns in the kernel, in the controller's order of dispatch: it must give the same figures."""
    rng = np.random.default_rng(seed)
    order = list(range(EVALUATIONS))
    # As `orders.dispatch_order` does with one kind and the challenge's default seed.
    random.Random(0).shuffle(order)  # noqa: S311 - an order, not a secret
    lengths = np.minimum(rng.lognormal(1.8, 0.8, (number, EVALUATIONS)), LIMIT_SECONDS)[:, order]
    ran = simulate(Pool(NODES, 1.0), lengths, trace=True)
    hits: dict[str, dict[str, list[bool]]] = {m: {"hours": [], "end": []} for m in MOMENTS}
    for row in range(number):
        for moment, done in MOMENTS.items():
            now = float(np.sort(ran.ends[row])[done - 1])
            started = ran.starts[row] <= now
            ended = ran.ends[row][started] <= now
            ages = np.where(ended, lengths[row][started], now - ran.starts[row][started])
            stratum = Stratum("cpu", EVALUATIONS, "local", 1.0, Runtimes(ages, ended, LIMIT_SECONDS))
            expected = forecast([stratum], {"local": NODES})
            hits[moment]["hours"].append(expected.hours.low <= lengths[row].sum() <= expected.hours.high)
            left = float(ran.end_hours[row]) - now
            hits[moment]["end"].append(expected.end_hours.low <= left <= expected.end_hours.high)
    return {m: {q: float(np.mean(held)) for q, held in quantities.items()} for m, quantities in hits.items()}


if __name__ == "__main__":
    print(study(int(sys.argv[1]), int(sys.argv[2])))
