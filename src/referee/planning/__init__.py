"""What it will cost, when it will end, on which machines: prices, pilot, forecast, assignment, simulation.

Everything in this room is pure: it reads no clock, no ledger and no network. Runtimes are hours as floats, because they
are measurements; money that a person reads is `Decimal`, rounded to a cent at the edge of the room (`money.dollars`).
"""
