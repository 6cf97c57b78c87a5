"""Pilot, plan and run on two partitions of a real Slurm, through the command line, by an ordinary user."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from board_world import make_challenge, predicting
from slurm_cluster import SlurmError, running_cluster
from slurm_world import Operator, operator

pytestmark = pytest.mark.containers

PHASE = "private_test"
PILOT, ALL = 3, 8
MACHINES = """
[machines.night]
cpus = 1
memory = "1GiB"
price = "36"
count = 1
reference = true
[machines.day]
cpus = 1
memory = "1GiB"
price = "72"
count = 1
[engine]
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator of a challenge that pays for two kinds of nodes, one dearer than the other."""
    submissions = {f"s{number}": (predicting(f"0.{50 + number}", "0.3"), "ok") for number in range(ALL)}
    challenge = make_challenge(tmp_path_factory.mktemp("challenge") / "challenge", submissions)
    text = (challenge / "challenge.toml").read_text().replace('wall_time = "3s"', 'wall_time = "60s"')
    (challenge / "challenge.toml").write_text(text.partition("[engine]")[0] + MACHINES)
    with running_cluster(2, cpus=1) as cluster:
        for name, node in zip(("night", "day"), cluster.nodes, strict=True):
            cluster.command(
                "scontrol", "create", f"partitionname=of-the-{name}", f"nodes={node}", "state=up", as_root=True
            )
        places = {f"machines.{name}.partition": f"of-the-{name}" for name in ("night", "day")}
        with operator(cluster, challenge, proven=True, **places) as made:
            made.referee("submissions", "import", "submissions.csv")
            yield made


def attempts(user: Operator) -> dict[str, dict[str, Any]]:
    """What the ledger says of each attempt, by name: how it was planned, and how it ended."""
    found: dict[str, dict[str, Any]] = {}
    for line in user.referee("ledger", "events", "--json").splitlines():
        event = json.loads(line)
        if event["kind"] in {"attempt.planned", "attempt.ended"}:
            found.setdefault(event["payload"]["attempt"], {}).update(event["payload"])
    return found


def split_plan(user: Operator, unhurried_hours: float) -> dict[str, Any]:
    """A plan for both partitions: the deadline is too early for the cheaper one alone, and late enough for both."""
    for factor in (1.0, 1.3, 0.8, 1.7):  # on a busy machine what has ended may say little
        words = ["--deadline", f"{unhurried_hours * 3600 * factor:.1f}s", "--confidence", "50%", "--no-page", "--json"]
        printed = user.referee("plan", "--phase", PHASE, *words, status=None)
        plan = json.loads(printed) if printed else {"pools": []}
        if len(plan["pools"]) == 2:
            return plan
    raise AssertionError("no deadline has divided the work")


@pytest.mark.timeout(600)
def test_a_plan_for_two_partitions_is_made_from_a_pilot_and_executed_in_its_shares(user: Operator) -> None:
    with pytest.raises(SlurmError, match="no plan was confirmed"):
        user.referee("run", "--phase", PHASE)
    with pytest.raises(SlurmError, match="and at most 6 probes of a few files"):
        user.referee("pilot", "--phase", PHASE, "--count", str(PILOT), "--probe")
    assert attempts(user) == {}  # nobody has said yes

    piloted = json.loads(user.referee("pilot", "--phase", PHASE, "--count", str(PILOT), "--probe", "-y", "--json"))
    speeds = {each["machine_type"]: each["known_from"] for each in piloted["speeds"]}
    assert speeds == {"night": "runs", "day": "probes"}
    before = attempts(user)
    official = {name: row for name, row in before.items() if ".probe-" not in name}
    assert Counter(row["machine_type"] for row in official.values()) == {"night": PILOT}
    probed = Counter(row["machine_type"] for name, row in before.items() if name not in official)
    assert probed == {"night": PILOT, "day": PILOT}
    [forecast] = json.loads(user.referee("status", "--json"))["forecasts"].values()
    assert (forecast["started"], forecast["size"]) == (PILOT, ALL)

    cheapest = json.loads(user.referee("plan", "--phase", PHASE, "--no-page", "--confidence", "50%", "--json"))
    assert [pool["machine_type"] for pool in cheapest["pools"]] == ["night"]
    plan = split_plan(user, cheapest["end_hours"]["mid"])
    assert plan["pools"][0]["evaluations"] + plan["pools"][1]["evaluations"] == ALL - PILOT
    assert "the deadline was met" in user.referee("simulate")

    user.referee("run", "--plan", "plan.json", "-y")
    after = {name: row for name, row in attempts(user).items() if name not in before}
    planned = {pool["machine_type"]: pool["evaluations"] for pool in plan["pools"]}
    # The submission that needs a GPU has no attempt.
    assert Counter(row["machine_type"] for row in after.values()) == planned
    assert {row["verdict"] for row in after.values()} == {"ok"}
    # Each machine type is a partition: which node it was says so.
    nodes = dict(zip(("night", "day"), user.cluster.nodes, strict=True))
    assert {(row["machine_type"], row["node"]) for row in (*before.values(), *after.values())} == set(nodes.items())
    status = json.loads(user.referee("status", "--json"))
    assert (status["verdicts"], status["forecasts"]) == ({"ok": ALL, "unroutable": 1}, {})
    user.referee("report")
    assert "Forecast and outcome" in (user.folder / "report.html").read_text()
