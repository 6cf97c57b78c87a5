"""`pilot`, `plan` and `run --plan` for fleets of several machine types: partitions of Slurm, queues of AWS Batch.

The engine itself is the one in virtual time under their names: what is tried is that all types reach pilot, probes,
plan and orders. The engines have tests of their own.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaign_world import Stage

from referee.attempts import AttemptSpec, Measurements
from referee.challenge import Challenge
from referee.cli import campaigns, main
from referee.engines.memory import MemoryEngine, Play
from referee.ledger import Ledger, queries
from referee.objects import ObjectStore
from referee.prospects import fleet
from referee.verdicts import Verdict

FLEET = """[limits]
wall_time = "2h"
cpus = 4
[machines.old]
cpus = 8
memory = "64GiB"
price = "0.60"
spot_price = "0.20"
reference = true
{old}
[machines.new]
cpus = 8
memory = "64GiB"
price = "0.90"
{new}
[engine]
name = "{engine}"
{more}
"""
OF = {
    "memory": {"old": "", "new": "", "more": ""},
    "slurm": {
        "old": "",
        "new": "",
        "more": """[engine.slurm]
shared = "{shared}"
machines.old.partition = "night"
machines.new.partition = "day"
""",
    },
    "aws-batch": {
        "old": 'boot = "1s"\nquota_pool = "Standard"',
        "new": 'boot = "1s"\nquota_pool = "Standard"',
        "more": '[engine.aws]\nstack = "referee"\n',
    },
}


@pytest.fixture(params=["memory"])
def there(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A challenge's folder with forty submissions; the engine runs them in virtual time, on `new` twice as fast."""
    (tmp_path / ".referee").mkdir(mode=0o700)
    text = FLEET.format(engine=request.param, **OF[request.param]).replace("{shared}", str(tmp_path / "shared"))
    Stage(tmp_path, count=40, text=text, place=tmp_path / ".referee" / "ledger.sqlite")
    lengths = np.random.default_rng(8).lognormal(np.log(4), 0.5, 40)

    def play(spec: AttemptSpec, _chance: random.Random) -> Play:
        seconds = float(lengths[int(spec.submission[2:])]) / (2.0 if spec.machine_type == "new" else 1.0)
        seconds = 0.05 + (seconds / 10 if spec.items else seconds)
        measured = Measurements(wall_seconds=seconds, cpu_seconds=seconds, peak_memory_bytes=2**30)
        return Play(seconds, predictions=b"filename,label\na.mp4,0.5\n", rows=1, measurements=measured)

    def engine(challenge: Challenge, objects: ObjectStore, _node: Path) -> MemoryEngine:
        machines = fleet.bought(challenge)
        nodes = {name: [f"{name} {n}" for n in range(40)] for name in machines}
        return MemoryEngine(objects, play, machines=machines, nodes=nodes)

    monkeypatch.setattr(campaigns, "create_engine", engine)
    monkeypatch.setattr(campaigns, "_proof", lambda *_: [])
    monkeypatch.setattr(campaigns, "refuse_unfit_host", lambda _: None)
    monkeypatch.setattr("referee.cli.plans.refuse_unfit_host", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    status = main(list(arguments))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out)


def ran_on(folder: Path, series: str = "") -> Counter[str]:
    with Ledger.open(folder / ".referee" / "ledger.sqlite") as ledger:
        return Counter(row.machine_type for row in queries.attempts(ledger, phase="test", series=series))


@pytest.mark.parametrize("there", list(OF), indirect=True)
def test_every_machine_type_of_the_engine_reaches_pilot_probes_plan_and_orders(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pilot", "--count", "20"]) == 2
    refused = " ".join(capsys.readouterr().err.split())
    # Forty submissions on the dearest type; twelve on each of two types, 10 minutes at least, all of 2 h with one file.
    assert "and at most 24 probes of a few files for at most $36." in refused
    piloted = said(capsys, "pilot", "--count", "20", "--json", "-y")
    assert ran_on(there) == {"old": 20}  # never on spot capacity, which no plan has confirmed
    assert [ran_on(there, f"probe-{n}") for n in (1, 2)] == [{"new": 12}, {"old": 12}]
    speeds = {each["machine_type"]: each for each in piloted["speeds"]}
    assert speeds["new"]["known_from"] == "probes"
    # A few files take as long to start up, so they show less than the two times of the whole.
    assert 0.5 < speeds["new"]["factor"] < 0.7
    assert len(speeds["new"]["each"]) == 12
    plan = said(capsys, "plan", "--deadline", "6h", "--json")
    assert set(plan["assignment"]["cpu"]) == {"new"}  # $0.90 for an hour, but half as long
    assert main(["run", "--plan", "plan.json", "-y"]) == 0
    assert ran_on(there) == {"old": 20, "new": 20}


def test_no_probes_where_they_are_not_wanted(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    piloted = said(capsys, "pilot", "--count", "20", "--no-probe", "--json", "-y")
    assert ran_on(there) == {"old": 10, "new": 10}  # then the pilot itself is spread over them
    with Ledger.open(there / ".referee" / "ledger.sqlite") as ledger:
        assert queries.series(ledger) == ()
    assert {each["known_from"] for each in piloted["speeds"]} == {"runs"}


@pytest.mark.parametrize("there", ["slurm", "aws-batch"], indirect=True)
def test_spot_capacity_is_executed_where_the_engine_rents_it_and_else_the_plan_says_so(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "pilot", "--count", "20", "--no-probe", "--json", "-y")
    plan = said(capsys, "plan", "--spot", "0.01", "--json")
    assert {pool["market"] for pool in plan["pools"] if pool["evaluations"]} == {"spot"}
    rents = 'name = "aws-batch"' in (there / "challenge.toml").read_text()
    assert any("does not rent old (spot)" in warning for warning in plan["warnings"]) is not rents
    assert main(["run", "--plan", "plan.json", "-y"]) == (0 if rents else 2)
    assert ran_on(there)["old (spot)"] == (20 if rents else 0)
    if rents:
        # What ran on spot capacity is known afterwards, too: as fast as the same machine on demand.
        assert said(capsys, "status", "--json")


def test_smoke_runs_of_everybody_need_a_smoke_run_in_the_challenge(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pilot", "--count", "20", "--smoke-all", "-y"]) == 2
    refused = " ".join(capsys.readouterr().err.split())
    assert "the challenge has no smoke run" in refused
    assert "items = 4" in refused
    assert ran_on(there) == {}


def test_with_smoke_runs_of_everybody_each_goes_where_it_has_enough_cpus(
    there: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (there / "challenge.toml").read_text()
    text = text.replace("cpus = 4\n", "cpus = 8\nleast_cpus = 2\n", 1) + "[smoke]\nitems = 1\n"
    text = text.replace("[machines.new]\ncpus = 8", "[machines.new]\ncpus = 2").replace(
        'price = "0.90"', 'price = "0.15"'
    )
    (there / "challenge.toml").write_text(text)

    def play(spec: AttemptSpec, _chance: random.Random) -> Play:
        number, have = int(spec.submission[2:]), 2 if spec.machine_type == "new" else 8
        threads = 8.0 if number % 2 else 1.0
        seconds = (
            (1 + number % 5) * (max(threads / have, 1.0) * (0.1 if number % 2 else 1.0)) / (5 if spec.items else 1)
        )
        verdict = Verdict.NONZERO_EXIT if number == 7 else Verdict.OK
        measured = Measurements(
            wall_seconds=seconds, cpu_seconds=seconds * min(threads, have) * 0.99, peak_memory_bytes=2**30
        )
        predictions = b"filename,label\na.mp4,0.5\n"
        return Play(0.05 + seconds, verdict, predictions=predictions, rows=1, measurements=measured)

    def engine(challenge: Challenge, objects: ObjectStore, _node: Path) -> MemoryEngine:
        types = fleet.bought(challenge)
        nodes = {name: [f"{name} {n}" for n in range(40)] for name in types}
        return MemoryEngine(objects, play, machines=types, nodes=nodes)

    monkeypatch.setattr(campaigns, "create_engine", engine)
    assert main(["pilot", "--count", "30", "--smoke-all"]) == 2
    refused = " ".join(capsys.readouterr().err.split())
    # Forty full runs of two hours on the dearest type.
    assert "and 40 smoke runs for at most $48.00, if each took as long as it may" in refused
    said(capsys, "pilot", "--count", "30", "--smoke-all", "--json", "-y")
    with Ledger.open(there / ".referee" / "ledger.sqlite") as ledger:
        smoked = [row for row in queries.attempts(ledger, phase="test") if row.smoke]
    assert Counter(row.machine_type for row in smoked) == {"old": 40}
    said(capsys, "pilot", "--json", "-y")  # over, and nobody is smoked again
    plan = said(capsys, "plan", "--json")
    assert {name: set(going) for name, going in plan["assignment"].items()} == {
        "cpu, up to 2 CPUs": {"new"},
        "cpu, up to 8 CPUs": {"old"},
    }
    assert main(["plan"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "cpu, up to 2 CPUs: 20 were measured to need so much" in shown
    assert said(capsys, "simulate", "--replicates", "50", "--json")["in_time"] is None
    before = len(smoked) + 30 - 1
    assert main(["run", "--plan", "plan.json", "-y"]) == 0
    with Ledger.open(there / ".referee" / "ledger.sqlite") as ledger:
        rows = queries.attempts(ledger, phase="test")[before:]
    assert rows
    for row in rows:
        assert row.machine_type == ("old" if int(row.evaluation[2:5]) % 2 else "new")
    assert json.loads((there / "plan.json").read_text())["classes"]
