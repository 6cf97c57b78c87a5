"""Durations, sizes and money as a person writes them in `challenge.toml`, as typed values.

`"9h"`, `"1h30m"`, `"45s"`, `"250ms"`, `"21d"` are durations; `"16GiB"`, `"500MB"`, `"4096"` are sizes in bytes (GB is
10^9, GiB is 2^30); money is a `Decimal` in US dollars, written as a string or an integer, never as a float.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: dict[str, int] = {"": 1, "B": 1} | {
    unit: base**power
    for power, letter in enumerate("KMGT", start=1)
    for unit, base in ((f"{letter}B", 1000), (f"{letter}iB", 1024))
}
_MOST_BYTES = 2**63  # what kernels and databases count in
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|d|h|m|s))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B|)", re.ASCII)


def parse_duration(text: object) -> timedelta:
    """Read a duration such as `"1h30m"`.

    Raises:
        ValueError: if it is not a positive duration with units.
    """
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or not _DURATION.fullmatch(text.replace(" ", "")):
        raise ValueError(f'{text!r} is not a duration: write a number with d, h, m, s or ms, such as "9h" or "1m30s"')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text.replace(" ", "")))
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a positive duration")
    if seconds > timedelta.max.total_seconds() / 2:
        raise ValueError(f"{text[:40]!r} is longer than any duration that can be told")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta | float) -> str:
    """Write a duration with at most two units, such as `1h30m`; a float is seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    whole = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def format_hours(hours: float) -> str:
    """Write estimated hours as a duration; an estimate below zero is none."""
    return format_duration(max(hours, 0.0) * 3600)


def parse_size(text: object) -> int:
    """Read a size such as `"16GiB"` as a number of bytes.

    Raises:
        ValueError: if it is not a positive size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text <= 0:
            raise ValueError(f"{text} is not a positive size in bytes")
        return text
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a size: write a number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    size = float(match[1]) * _BYTES[match[2]]
    if not 0.5 < size < _MOST_BYTES:
        raise ValueError(f"{match[0][:40]!r} is not a positive size below {format_size(_MOST_BYTES)}")
    return round(size)


def format_size(size_bytes: float) -> str:
    """Write a number of bytes with a binary unit, such as `1.5 GiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            # From 999.5 on three digits would be written as a power of ten.
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 999.5 else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if abs(value) < 999.5 else f"{value:.0f} TiB"


def parse_usd(value: object) -> Decimal:
    """Read money in US dollars.

    Raises:
        ValueError: for a float (binary fractions are not money), a negative or a non-finite amount.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError(f'{value!r} is not an amount of money: write it as a string, such as "0.526"')
    try:
        amount = Decimal(value)
    except ArithmeticError as error:
        raise ValueError(f'{value!r} is not an amount of money: write it as "0.526"') from error
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{value!r} is not a finite amount of money, zero or more")
    return amount


def format_usd(value: Decimal | float) -> str:
    """Write money in US dollars with cents, such as `$1,234.50`."""
    return f"${value:,.2f}"


def _exact(value: timedelta) -> str:
    return f"{value.total_seconds():.3f}s"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(_exact, return_type=str)]
Size = Annotated[int, BeforeValidator(parse_size)]
Usd = Annotated[Decimal, BeforeValidator(parse_usd), PlainSerializer(str, return_type=str)]
