"""The replay's figures as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(found: dict[str, Any]) -> None:
    """Print all tables."""
    console = Console(width=110)
    for draw in (_principles, _day_two, _waste, _without, _cores, _levers, _deadlines, _spot):
        table = draw(found)
        console.print(table)
        console.print()


def _table(title: str, *columns: str, caption: str = "") -> Table:
    table = Table(title=title, title_justify="left", caption=caption or None, caption_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table


def _principles(found: dict[str, Any]) -> Table:
    f = found["first_principles"]
    table = _table(
        "From first principles, at the prices of 2020-08-30",
        "",
        "hours",
        "cost",
        "for one submission",
        caption=f"In 21 days {f['gpus_for_21_days']:.0f} GPUs are just enough for the first estimate; the article's 85"
        f" give {f['gpu_hours_of_85']:,.0f} hours. The published table has a line with"
        f" 90,000 hours of p3.2xlarge; with its g4dn hours that would cost ${f['table_as_printed_usd']:,.0f},"
        " more than twice the first estimate. 90,000 hours are the second estimate,"
        f" on g4dn.xlarge (${f['table_mended_usd']:,.0f}); 25,000 hours are what g4dn.xlarge took in the end."
        " The rows are swapped or mixed.",
    )
    table.add_row(
        "first estimate, p3.2xlarge",
        f"{f['first_hours']:,.0f}",
        f"${f['first_usd']:,.0f}",
        f"${f['first_usd_each']:.2f}",
    )
    table.add_row(
        "second estimate, g4dn.xlarge",
        f"{f['second_hours']:,.0f}",
        f"${f['second_usd']:,.0f}",
        f"${f['second_usd_each']:.2f}",
    )
    table.add_row("what was paid", "30,800", f"${f['paid_usd']:,.0f}", f"${f['paid_usd'] / 4200:.2f}")
    return table


def _day_two(found: dict[str, Any]) -> Table:
    sent = " and ".join(each.replace(" ", " to ", 1) for each in found["planner"]["sent_to"])
    table = _table(
        "What Referee says on day 2, from 84 submissions drawn at random (90% intervals)",
        "",
        "low",
        "estimate",
        "high",
        "covers, of 1,000 pilots",
        caption="The last row is what `referee plan` itself forecasts from attempts and probes (median of 50 pilots):"
        f" it sends {sent}, as the bill below has it.",
    )
    for row, key, cover in (
        ("on the article's machines", "article_usd", "article"),
        ("Referee's plan", "plan_usd", "plan"),
    ):
        low, mid, high = found["day_two"][key]
        table.add_row(row, f"${low:,.0f}", f"${mid:,.0f}", f"${high:,.0f}", f"{found['day_two_cover'][cover]:.1%}")
    low, mid, high = found["planner"]["median_usd"]
    table.add_row("`referee plan`", f"${low:,.0f}", f"${mid:,.0f}", f"${high:,.0f}", f"{found['planner']['cover']:.0%}")
    return table


def _waste(found: dict[str, Any]) -> Table:
    table = _table(
        "The bill, on demand, pilot with its probes and first tries included",
        "share of hours wasted",
        "article's policy",
        "Referee (5%, median, 95% of pilots)",
        "clairvoyant bound",
        "above it",
        "if no restart recurred",
        caption="The wasted share is paid by everybody, the bound too: what Referee would have lost is not known.",
    )
    for waste, row in found["waste"].items():
        low, mid, high = row["referee_usd"]
        table.add_row(
            f"{float(waste):.0%}",
            f"${row['article_usd']:,.0f}",
            f"${low:,.0f}  ${mid:,.0f}  ${high:,.0f}",
            f"${row['clairvoyant_usd']:,.0f}",
            f"{row['above_bound']:.2%}",
            f"${row['referee_without_restarts_usd']:,.0f}",
        )
    return table


def _without(found: dict[str, Any]) -> Table:
    table = _table(
        "The same without c5a, on c5",
        "share of hours wasted",
        "Referee (5%, median, 95% of pilots)",
        "clairvoyant bound",
        "above it",
        caption="With c5a rests on its cores being at least as fast as c4's, which the pilot would measure.",
    )
    for waste, row in found["waste"].items():
        low, mid, high = row["without_c5a"]["referee_usd"]
        table.add_row(
            f"{float(waste):.0%}",
            f"${low:,.0f}  ${mid:,.0f}  ${high:,.0f}",
            f"${row['without_c5a']['clairvoyant_usd']:,.0f}",
            f"{row['without_c5a']['above_bound']:.2%}",
        )
    return table


def _cores(found: dict[str, Any]) -> Table:
    speeds = next(iter(found["core_speeds_usd"].values()))
    table = _table(
        "If a core of the CPU machines were so many times as fast as one of c4 (nothing wasted)",
        "all CPU jobs on",
        *(f"{float(speed):g} x" for speed in speeds),
        caption="1 x is assumed everywhere else; the pilot's probes would measure it.",
    )
    for name, row in found["core_speeds_usd"].items():
        table.add_row(name, *(f"${usd:,.0f}" for usd in row.values()))
    return table


def _levers(found: dict[str, Any]) -> Table:
    table = _table("What each lever is worth, on the same workload", "lever", "saves")
    for name, usd in found["levers_usd"].items():
        table.add_row(name, f"${usd:,.0f}" if usd >= 0 else f"-${-usd:,.0f}")
    return table


def _deadlines(found: dict[str, Any]) -> Table:
    table = _table("Machines for the deadline", "days", "machines", "ends after (5%, median, 95%)", "simulated in time")
    for days, row in found["deadlines"].items():
        low, mid, high = row["end_days"]
        machines = ", ".join(f"{number} {name}" for name, number in row["machines"].items())
        table.add_row(days, machines, f"{low:.1f}  {mid:.1f}  {high:.1f} days", f"{row['in_time']:.1%}")
    return table


def _spot(found: dict[str, Any]) -> Table:
    table = _table(
        "With spot capacity where it saves, at 2021's spot prices",
        "losses an hour",
        *(f"{float(share):.0%} can be sharded" for share in next(iter(found["spot_usd"].values()))),
        caption="On demand, with a boot and a pull for every evaluation, it would be "
        f"${found['on_demand_with_overhead_usd']:,.0f}.",
    )
    for rate, row in found["spot_usd"].items():
        table.add_row(rate, *(f"${usd:,.0f}" for usd in row.values()))
    return table
