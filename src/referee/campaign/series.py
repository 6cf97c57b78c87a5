"""The challenge as a series of further runs is made under."""

from __future__ import annotations

from referee.challenge import Challenge
from referee.ledger import queries
from referee.orders import probe_items


def for_series(challenge: Challenge, series: queries.SeriesRow) -> Challenge:
    """The challenge as a series of further runs is made under: its own limits, every file, and mostly every image.

    Only a rejudging lets equal images share one run: it makes official results, and there that is the rule. Only a
    probe is on a few files.
    """
    few = probe_items(challenge.smoke) if series.purpose == "probe" else None
    changes: dict[str, object] = {"smoke": challenge.smoke.model_copy(update={"items": few})}
    if series.limits is not None:
        changes["limits"] = series.limits
    if series.purpose != "rejudging":
        changes["duplicates"] = "run_each"
    return challenge.model_copy(update=changes)
