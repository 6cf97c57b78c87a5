"""Dollars at the edge of the room: estimates are computed as floats and become `Decimal` where a person reads them."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal


def dollars(estimate: float) -> Decimal:
    """An estimate in US dollars, rounded to a cent.

    Raises:
        ValueError: if it is not finite.
    """
    amount = Decimal(repr(float(estimate)))
    if not amount.is_finite():
        raise ValueError(f"{estimate} is not an amount of money")
    return amount.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
