"""Secrets in files: no other user's eyes, no links, nothing half made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from referee.audit import SigningKey
from referee.errors import ConfigurationError, HostError, RefereeError
from referee.scoring.sealing import SealKey
from referee.secret_file import open_secret
from referee.submissions import BlindKey


def test_a_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state" / "one.key"
    assert open_secret(path, "key", lambda: b"first") == b"first"
    assert open_secret(path, "key", lambda: b"second") == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["one.key"]


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.key"
    path.write_bytes(b"seen")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="other users"):
        open_secret(path, "key", lambda: b"")


@pytest.mark.parametrize("key", [BlindKey, SealKey, SigningKey])
def test_no_key_is_read_through_a_link_or_from_what_is_no_file(
    key: type[BlindKey | SealKey | SigningKey], tmp_path: Path
) -> None:
    real = tmp_path / "real.key"
    key.open(real)
    link = tmp_path / "link.key"
    link.symlink_to(real)
    with pytest.raises(HostError, match="cannot be read"):
        key.open(link)
    fifo = tmp_path / "fifo.key"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(RefereeError):
        key.open(fifo)
