"""Pilot, plan and run on a STAND-IN for AWS Batch, through the command line: two machine types, one also on spot.

No call leaves this machine. What is shown is the planner's way through the engine; prices, times and the behaviour of
spot capacity are the stand-in's.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_stand_in import REGION, BatchStandIn, serving
from batch_stand_in_hosts import Host, Kind
from batch_world import deploy
from board_world import as_json, make_challenge, predicting, referee
from worker_world import proofs

pytestmark = pytest.mark.containers

PHASE, STACK = "private_test", "referee-plan"
PILOT, ALL = 3, 6
SPOT = "c5.large (spot)"
MACHINES = """
[engine]
name = "aws-batch"
[engine.aws]
stack = "referee-plan"
listen = "200ms"
look = "2s"
[machines."c5.large"]
cpus = 1
memory = "4GiB"
price = "36"
spot_price = "4"
boot = "1s"
count = 2
reference = true
[machines."m5.large"]
cpus = 1
memory = "8GiB"
price = "45"
boot = "1s"
count = 2
"""


class Account:
    """A challenge on the service.

    Attributes:
        folder: the challenge's.
        batch: the service.
        reclaiming: whether EC2 takes each spot machine back as soon as it is there, until something runs on demand.
    """

    def __init__(self, folder: Path) -> None:
        submissions = {f"s{number}": (predicting(f"0.{50 + number}", "0.3"), "ok") for number in range(ALL)}
        self.folder = make_challenge(folder / "challenge", submissions)
        text = (self.folder / "challenge.toml").read_text().replace('wall_time = "3s"', 'wall_time = "10m"')
        (self.folder / "challenge.toml").write_text(text.partition("[engine]")[0] + MACHINES)
        c5 = Kind(vcpus=1, registered_mib=3600, most=2)
        queues = {
            f"{STACK}-c5-large": c5,
            f"{STACK}-c5-large-spot": replace(c5, spot=True),
            f"{STACK}-m5-large": replace(c5, registered_mib=7300, instance_type="m5.large"),
        }
        # The notice is so long that a busy machine is not taken before its worker has said so.
        self.batch = BatchStandIn(folder / "hosts", queues, notice_seconds=120.0, furnish=self.furnish)
        self.reclaiming = False

    def furnish(self, host: Host) -> None:
        """What a fresh machine finds."""
        shutil.copytree(proofs(), host.folder / "proofs")
        if not host.kind.spot:
            self.reclaiming = False
        elif self.reclaiming:
            self.batch.reclaim(host)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    made = Account(tmp_path_factory.mktemp("aws"))
    challenge, batch = made.folder, made.batch
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}
    with pytest.MonkeyPatch.context() as environment, serving(batch) as url:
        for name, value in (keys | {"AWS_ENDPOINT_URL": url}).items():
            environment.setenv(name, value)
        deploy(challenge, batch, url)
        referee(challenge, "submissions", "import", "submissions.csv")
        yield made
        batch.events = None


def attempts(folder: Path) -> dict[str, dict[str, Any]]:
    """What the ledger says of each attempt, by name: how it was planned, and how it ended."""
    found: dict[str, dict[str, Any]] = {}
    for line in referee(folder, "ledger", "events", "--json").splitlines():
        event = json.loads(line)
        if event["kind"] in {"attempt.planned", "attempt.ended"}:
            found.setdefault(event["payload"]["attempt"], {}).update(event["payload"])
    return found


def plan(folder: Path, *words: str) -> Any:
    return as_json(folder, "plan", "--phase", PHASE, "--no-page", *words)


@pytest.mark.timeout(600)
def test_a_plan_on_spot_capacity_is_executed_there_and_what_is_taken_away_twice_on_demand(account: Account) -> None:
    folder = account.folder
    with pytest.raises(AssertionError, match="no plan was confirmed"):
        referee(folder, "run", "--phase", PHASE)
    assert attempts(folder) == {}

    piloted = as_json(folder, "pilot", "--phase", PHASE, "--count", str(PILOT), "--probe", "-y")
    speeds = {each["machine_type"]: each["known_from"] for each in piloted["speeds"]}
    assert speeds == {"c5.large": "runs", "m5.large": "probes"}
    before = attempts(folder)
    probes = Counter(row["machine_type"] for name, row in before.items() if ".probe-" in name)
    assert probes == {"c5.large": PILOT, "m5.large": PILOT}
    # Never on spot capacity, which no plan has confirmed.
    assert Counter(row["machine_type"] for row in before.values()) == probes + Counter({"c5.large": PILOT})

    # A budget for what is expected, and more, but not for one attempt at its limit of time.
    on_demand = plan(folder, "--budget", "4")
    assert [(pool["machine_type"], pool["market"]) for pool in on_demand["pools"]] == [("c5.large", "on_demand")]
    with pytest.raises(AssertionError, match="one more attempt might go beyond it"):
        referee(folder, "run", "--plan", "plan.json", "-y")
    assert len(attempts(folder)) == len(before)

    on_spot = plan(folder, "--spot", "0.05")
    assert [(pool["machine_type"], pool["market"]) for pool in on_spot["pools"]] == [("c5.large", "spot")]

    account.reclaiming = True
    referee(folder, "run", "--plan", "plan.json", "-y")
    ways: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, row in attempts(folder).items():
        if name not in before:
            ways[row["evaluation"]].append((row["machine_type"], row["verdict"]))
    lost, there, instead = (SPOT, "interrupted"), (SPOT, "ok"), ("c5.large", "ok")
    assert len(ways) == ALL - PILOT
    assert all(way in ([there], [lost, there], [lost, lost, instead]) for way in ways.values()), ways
    assert [lost, lost, instead] in ways.values()
    status = as_json(folder, "status")
    assert (status["verdicts"], status["forecasts"]) == ({"ok": ALL, "unroutable": 1}, {})


@pytest.mark.timeout(600)
def test_the_bill_agrees_with_the_attempts(account: Account) -> None:
    if not any(row["machine_type"] == SPOT for row in attempts(account.folder).values()):
        pytest.skip("nothing has run: the test above failed")
    of_attempts = as_json(account.folder, "cloud", "bill", "--by", "attempt")
    assert {row["attempt"] for row in of_attempts} <= attempts(account.folder).keys()
    of_types = as_json(account.folder, "cloud", "bill")
    work = {"run", "staging", "lost to the host"}
    for machine_type, usd in {"c5.large": 36, "m5.large": 45, SPOT: 4}.items():
        here = sum(row["hours"] for row in of_attempts if row["machine_type"] == machine_type)
        used = sum(row["hours"] for row in of_types if row["machine_type"] == machine_type and row["use"] in work)
        assert here == pytest.approx(used)
        lives = sum(row["hours"] for row in of_types if row["machine_type"] == machine_type)
        assert sum(float(row["usd"]) for row in of_types if row["machine_type"] == machine_type) == pytest.approx(
            lives * usd, abs=0.05
        )
