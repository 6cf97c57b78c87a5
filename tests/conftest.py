"""What tests of several folders share: a PostgreSQL server for the whole session, and the two kinds of ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import postgresql_world
import s3_world

# No example has a deadline: it would be an absolute time, and break on a busy machine. The same examples each time, so
# that a change is judged by what it changes; `--hypothesis-profile=search` looks for new ones.
settings.register_profile("referee", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("referee")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgresql_world.Server]:
    """A server for all tests; each uses schemas of its own (`fresh`), and none stops it."""
    with postgresql_world.server() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A place for a ledger that is not there yet: a file, or the address of a schema."""
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    server: postgresql_world.Server = request.getfixturevalue("postgresql")
    return server.fresh()


@pytest.fixture(scope="session")
def s3_service() -> Iterator[s3_world.Service]:
    """S3's API on loopback, for all tests; each uses a prefix of its own."""
    with s3_world.service() as made:
        yield made


@pytest.fixture
def s3(s3_service: s3_world.Service, monkeypatch: pytest.MonkeyPatch) -> s3_world.Service:
    """The same, with credentials in the environment."""
    for name, value in s3_world.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3_service
