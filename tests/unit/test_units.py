"""Durations, sizes and money as people write them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from referee.units import format_duration, format_hours, format_size, format_usd, parse_duration, parse_size, parse_usd


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("9h", 32400), ("1h30m", 5400), ("45s", 45), ("250ms", 0.25), ("21d", 1814400), ("1.5h", 5400), ("1h 30m", 5400)],
)
def test_durations_carry_their_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "wrong", ["", "9", "h", "-1h", "0s", "9 hours", "1h30", 9, 9.0, None, True, "１h", "1e3s", "9999999999999d"]
)
def test_what_is_no_duration_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 16 * 2**30), ("500MB", 500_000_000), ("1 KiB", 1024), ("4096", 4096), (4096, 4096), ("1.5MiB", 1572864)],
)
def test_sizes_tell_decimal_from_binary_units(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("wrong", ["", "16 gigs", "-1MB", "0", 0, -5, True, None, 1.5, "GiB", "١MB", "9" * 400 + "GB"])
def test_what_is_no_size_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(wrong)


@pytest.mark.parametrize("wrong", [0.526, "-1", "NaN", "Infinity", "five", True, None])
def test_money_is_never_a_float_nor_negative(wrong: object) -> None:
    with pytest.raises(ValueError, match="money"):
        parse_usd(wrong)


def test_money_is_exact() -> None:
    assert parse_usd("0.526") * 25_000 + parse_usd("3.06") * 800 + parse_usd("0.796") * 5_000 == Decimal("19578.000")


@given(st.integers(1, 10**9))
def test_a_written_duration_reads_back_within_its_two_units(seconds: int) -> None:
    value = timedelta(seconds=seconds)
    assert abs(parse_duration(format_duration(value)) - value) <= value * 0.05


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250ms"), (3.14159, "3.14s"), (59.9, "59.9s"), (90, "1m30s"), (90061, "1d1h"), (-90, "-1m30s")],
)
def test_durations_are_written_shortly(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (16 * 2**30, "16 GiB"),
        (2**41, "2 TiB"),
        (1000 * 2**20, "1000 MiB"),
        (1023 * 2**20 + 2**19, "1024 MiB"),
        (999 * 2**10, "999 KiB"),
        (3000 * 2**40, "3000 TiB"),
    ],
)
def test_sizes_are_written_in_binary_units(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(("hours", "text"), [(1.5, "1h30m"), (0.25, "15m"), (30, "1d6h"), (-3, "0ms")])
def test_estimated_hours_are_durations_and_never_below_zero(hours: float, text: str) -> None:
    assert format_hours(hours) == text


@pytest.mark.parametrize(("value", "text"), [(Decimal("1234.5"), "$1,234.50"), (0.005, "$0.01"), (Decimal(0), "$0.00")])
def test_money_has_cents(value: Decimal | float, text: str) -> None:
    assert format_usd(value) == text
