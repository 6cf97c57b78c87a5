"""What a node says of an attempt is believed only if the ledger can take it. Found by `make bench-fuzz`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from referee.attempts import read_claim, read_result
from referee.errors import HostError
from referee.ledger.chain import canonical_json
from referee.ledger.events import AttemptEnded

ATTEMPT = "s-1234ab.private_test.1"
MEASURED = {"wall_seconds": 1.5, "cpu_seconds": 1.25, "peak_memory_bytes": 2**20}
HONEST: dict[str, Any] = {
    "attempt": ATTEMPT, "verdict": "ok", "exit_status": 0, "measurements": MEASURED,
    "predictions_digest": "sha256:" + "a" * 64, "predictions_rows": 5, "node": "node-1", "boot_id": "b",
    "machine_type": "local", "level": "runc", "started_at": "2026-11-22T10:00:00Z", "ended_at": "2026-11-22T10:00:01Z",
    "worker_version": "0.1.0",
}  # fmt: skip


def test_an_honest_result_becomes_an_event() -> None:
    said = read_result(json.dumps(HONEST).encode(), ATTEMPT)
    facts = said.model_dump(include=set(AttemptEnded.model_fields) - {"reported_by", "measurements"})
    event = AttemptEnded(reported_by="worker", **facts, measurements=said.measurements)
    assert AttemptEnded.model_validate(json.loads(canonical_json(event.payload()))) == event


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("predictions_digest", ""),
        ("log_digest", "sha256:" + "A" * 64),
        ("node", ""),
        ("node", "n" * 301),
        ("node", "a\x1b[31m"),
        ("exit_status", 2**63),
        ("signal", -(2**70)),
        ("predictions_rows", -1),
        ("started_at", "2026-11-22T10:00:00"),
        ("started_at", "0001-01-01T00:00:00+23:59"),
        ("ended_at", "0002-01-01T00:00:00+23:59"),
        ("ended_at", "9999-12-31T23:59:59-23:59"),
        ("measurements", MEASURED | {"wall_seconds": float("nan")}),
        ("measurements", MEASURED | {"cpu_seconds": float("inf")}),
        ("measurements", MEASURED | {"peak_memory_bytes": 2**64}),
        ("measurements", MEASURED | {"preparation_seconds": 1e300}),
        ("measurements", MEASURED | {"wall_seconds": -1.0}),
        ("predictions_digest", None),
        ("attempt", "s-1234ab.private_test.2"),
        ("verdict", "splendid"),
        ("\x1b[31m", 1),
    ],
)
def test_a_result_that_the_ledger_could_not_take_is_refused_in_plain_words(key: str, value: object) -> None:
    with pytest.raises(HostError) as refused:
        read_result(json.dumps(HONEST | {key: value}).encode(), ATTEMPT)
    assert ATTEMPT in refused.value.message
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b"{}", b"null"])
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(HostError, match="cannot be read"):
        read_result(data, ATTEMPT)


@pytest.mark.parametrize(
    ("data", "node"),
    [
        (b'{"node": "node-1"}', "node-1"),
        (b'{"node": ""}', None),
        (b'{"node": 7}', None),
        (b'{"node": "a\\u0000"}', None),
        (b"[" * 100_000, None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_a_claim_names_a_node_or_nothing(data: bytes, node: str | None) -> None:
    assert read_claim(data) == node
