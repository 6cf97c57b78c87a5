"""What the order of dispatch lets a running campaign's outlook believe."""

from __future__ import annotations

from pathlib import Path

import pytest
from prospects_world import MACHINES, Season, lengths

from referee.ledger import Lease, PilotDrawn, queries
from referee.orders import Orders
from referee.prospects.outlook import outlook

FAST = """[machines.fast]
cpus = 8
memory = "64GiB"
price = "1.50"
speed = 2
count = 4
"""


def test_drift_is_announced_where_two_machine_types_work(tmp_path: Path) -> None:
    season = Season(tmp_path, lengths(240, sigma=0.3), MACHINES + FAST)
    orders = Orders(shares={"cpu": {"slow": 80, "fast": 160}})
    season.run(orders, until=1)
    with season.ledger() as ledger:
        order = [row.submission for row in sorted(queries.evaluations(ledger, "test"), key=lambda row: row.order)]
    for late in order[80:]:
        season.seconds[late] *= 2.0
    season.run(orders, until=180)
    with season.ledger() as ledger:
        seen = outlook(season.stage.challenge, ledger, "test", season.now)
    assert seen is not None
    assert [advice.danger for advice in seen.advice] == ["drift"]


@pytest.mark.parametrize("order", ["manifest", "random"])
def test_in_the_order_of_import_only_the_pilot_stands_for_the_rest(tmp_path: Path, order: str) -> None:
    # The first to arrive are the longest, as DFDC's were.
    drawn = sorted(lengths(200).values(), reverse=True)
    seconds = {f"s-{place:03d}": length for place, length in enumerate(drawn)}
    season = Season(tmp_path, seconds, MACHINES.replace('name = "memory"', f'name = "memory"\norder = "{order}"'))
    pilot = tuple(f"s-{place:03d}.test" for place in range(3, 200, 5))
    with season.ledger() as ledger, ledger.lead() as lease:
        assert isinstance(lease, Lease)
        lease.append([PilotDrawn(phase="test", evaluations=pilot, seed=0, most_usd="0")])  # type: ignore[arg-type] # read as money
    season.run(Orders(only=frozenset(pilot)))
    season.run(until=110)
    with season.ledger() as ledger:
        seen = outlook(season.stage.challenge, ledger, "test", season.now)
    assert seen is not None
    hours = seen.forecast.hours
    assert hours.low < sum(seconds.values()) / 3600 < hours.high
