"""Whoever checks a bundle is somebody else: another user, without a home, a ledger, or a folder to write into."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit_world import make_campaign, opened
from board_world import REFEREE
from referee.publication import anchor_line, write_bundle_of

NOBODY = 65534


@pytest.fixture
def handed_out() -> Iterator[tuple[Path, str, str]]:
    """A folder that nobody may change with a bundle and the labels in it; the anchor and the key that go with them."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(prefix="auditor-") as temporary:  # pytest's own folders are root's alone
        place = Path(temporary)
        place.chmod(0o755)
        private = place / "operator"
        private.mkdir(mode=0o700)
        workspace, ledger = opened(make_campaign(private / "challenge", submissions=2))
        given = place / "given"
        given.mkdir()
        with ledger:
            anchor = anchor_line(workspace, ledger)
            write_bundle_of(workspace, ledger, given / "a.bundle.tar")
        (given / "labels.csv").write_bytes((private / "challenge/labels/private_test.csv").read_bytes())
        data = bytearray((given / "a.bundle.tar").read_bytes())
        data[len(data) // 2] ^= 1
        (given / "changed.bundle.tar").write_bytes(data)
        for path in (*given.iterdir(), given):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield given, anchor, workspace.signing_key.public


def as_nobody(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `referee` as the user nobody, with nothing of ours in the environment and no home."""
    who = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    clean = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    command = [*who, str(REFEREE), *words]
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=120)


def test_a_bundle_is_checked_by_another_user_who_can_write_nowhere(handed_out: tuple[Path, str, str]) -> None:
    place, anchor, key = handed_out
    before = sorted(path.name for path in place.iterdir())
    assert as_nobody(place, "status", "--challenge", str(place.parent / "operator/challenge")).returncode != 0
    done = as_nobody(
        place, "verify", "a.bundle.tar", "--labels", "labels.csv", "--anchor", anchor, "--key", key, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["sound"]
    assert found["recomputed"] == {"private_test": 4}
    refused = as_nobody(place, "verify", "changed.bundle.tar")
    assert refused.returncode == 1
    assert "bundle" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert sorted(path.name for path in place.iterdir()) == before
