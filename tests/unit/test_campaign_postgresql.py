"""A campaign whose ledger is in PostgreSQL, while its server goes away and its session is ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign_world import Stage

import postgresql_world
from referee.errors import HostError
from referee.ledger import Ledger, queries
from referee.verdicts import Verdict


@pytest.fixture(scope="module")
def frail() -> Iterator[postgresql_world.Server]:
    """A server that is stopped and started."""
    with postgresql_world.server() as made:
        yield made


def test_a_server_that_restarts_under_a_campaign_ends_the_run_and_the_next_goes_on(
    tmp_path: Path, frail: postgresql_world.Server
) -> None:
    stage = Stage(tmp_path, place=frail.fresh())
    engine = stage.engine(slots=2)
    waited = engine.wait
    waits = 0

    def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits in {1, 3, 6}:
            frail.restart()
        waited(seconds)

    engine.wait = wait  # type: ignore[method-assign] - what happens to the database meanwhile
    for _ in range(3):
        with pytest.raises(HostError, match="was lost") as caught:
            stage.run(engine)
        assert "referee run" in caught.value.hint
    stage.run(engine)
    assert stage.verdicts() == {Verdict.OK: 8}
    assert set(engine.executed.values()) == {1}
    with Ledger.open(stage.path) as ledger:
        stops = [row.stop_reason for row in queries.controllers(ledger)]
    assert stops == [None, None, None, "finished"]
