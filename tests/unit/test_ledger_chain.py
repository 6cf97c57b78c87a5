"""The chain alone: canonical JSON, hashes, and that no change goes unnoticed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from referee.errors import LedgerError
from referee.ledger.chain import (
    EMPTY,
    Head,
    Link,
    canonical_json,
    format_time,
    link_hash,
    next_link,
    parse_time,
    verify_links,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def chain(length: int = 6) -> list[Link]:
    links: list[Link] = []
    head = EMPTY
    for number in range(length):
        epoch = None if number == 0 else 1 + number // 4
        link = next_link(head, NOON + timedelta(seconds=number), epoch, "risk.accepted", {"n": number, "x": 0.1})
        links.append(link)
        head = Head(link.seq, link.hash)
    return links


@given(JSON)
def test_canonical_json_reads_back_as_the_very_same_value(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert text.isascii()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {"deep": [math.nan]}, object()])
def test_what_json_does_not_know_is_refused(value: object) -> None:
    with pytest.raises(LedgerError):
        canonical_json(value)


def test_equal_times_are_equal_text() -> None:
    assert format_time(NOON) == "2026-01-01T12:00:00.000000Z"
    assert format_time(NOON.astimezone(timezone(timedelta(hours=5)))) == format_time(NOON)
    assert parse_time(format_time(NOON)) == NOON
    with pytest.raises(LedgerError, match="without a time zone"):
        format_time(NOON.replace(tzinfo=None))


def test_a_sound_chain_leads_to_its_head() -> None:
    links = chain()
    assert verify_links(links) == Head(6, links[-1].hash)
    assert verify_links(links[3:], start=Head(3, links[2].hash)) == Head(6, links[-1].hash)


def test_the_hash_is_that_of_the_documented_text() -> None:
    # Written out by hand once, so that a change of the format cannot pass unnoticed.
    link = next_link(EMPTY, NOON, 1, "risk.accepted", {"name": "é", "n": 0.1})
    text = (
        '{"epoch":1,"kind":"risk.accepted","payload":{"n":0.1,"name":"\\u00e9"},"prev":"'
        + "0" * 64
        + '","seq":1,"time":"2026-01-01T12:00:00.000000Z"}'
    )
    import hashlib  # noqa: PLC0415 - only this test computes it by another way

    assert link.hash == hashlib.sha256(text.encode()).hexdigest()


@given(st.integers(0, 5), st.sampled_from(["prev", "time", "kind", "payload", "hash"]), st.data())
def test_a_single_changed_character_is_found_and_named(position: int, column: str, data: st.DataObject) -> None:
    links = chain()
    text = getattr(links[position], column)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters())
    assume(other != text[place])
    links[position] = replace(links[position], **{column: text[:place] + other + text[place + 1 :]})
    with pytest.raises(LedgerError, match=rf"broken at event {position + 1}:"):
        verify_links(links)


@given(st.integers(0, 5), st.sampled_from(["seq", "epoch"]), st.integers(0, 9) | st.none())
def test_a_changed_number_is_found_and_named(position: int, column: str, value: int | None) -> None:
    links = chain()
    assume(getattr(links[position], column) != value)
    links[position] = replace(links[position], **{column: value})
    with pytest.raises(LedgerError, match=r"broken at event"):
        verify_links(links)


@given(st.data())
def test_dropped_doubled_and_swapped_events_are_found(data: st.DataObject) -> None:
    links = chain()
    position = data.draw(st.integers(0, 4))
    kind = data.draw(st.sampled_from(["drop", "double", "swap"]))
    if kind == "drop":
        del links[position]
    elif kind == "double":
        links.insert(position, links[position])
    else:
        links[position], links[position + 1] = links[position + 1], links[position]
    with pytest.raises(LedgerError, match=r"broken at event"):
        verify_links(links)


def test_a_rehashed_forgery_that_skips_back_an_epoch_is_found() -> None:
    links = chain()
    old = next_link(Head(6, links[-1].hash), NOON, 1, "risk.accepted", {})
    with pytest.raises(LedgerError, match="written by controller 1 after controller 2 took over"):
        verify_links([*links, old])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prev": "f" * 64}, "event 4: it does not name the hash of the event before it"),
        ({"seq": 9}, "event 9: it follows event 3: events are missing"),
    ],
)
def test_a_rehashed_event_that_does_not_follow_the_one_before_is_found(change: dict[str, object], why: str) -> None:
    links = chain()
    stray = replace(links[3], **change)  # type: ignore[arg-type]  # the table above has the fields' types
    links[3] = replace(stray, hash=link_hash(stray))
    with pytest.raises(LedgerError, match=why):
        verify_links(links)


def test_a_payload_that_is_not_canonical_is_found_even_with_a_fitting_hash() -> None:
    loose = replace(chain(1)[0], payload='{"n": 0}')
    with pytest.raises(LedgerError, match="canonical way"):
        verify_links([replace(loose, hash=link_hash(loose))])
