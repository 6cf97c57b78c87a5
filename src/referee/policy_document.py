"""`docs/verdicts.md`, printed from the tables that the program itself reads (`python -m referee.policy_document`)."""

from __future__ import annotations

from referee.policy import (
    BREAKER_EVALUATIONS,
    BREAKER_FAULTS,
    BREAKER_NODES,
    BREAKER_WINDOW,
    MOST_ATTEMPTS,
    QUARANTINE_AFTER,
    TABLE,
    Demand,
    Ending,
    Outcome,
    Rule,
    ending,
)
from referee.verdicts import MEANINGS, Verdict


def document() -> str:
    """`docs/verdicts.md`: every verdict and the whole table, as Markdown."""
    lines = [
        "# Verdicts, and what comes next",
        "",
        "<!-- Printed by `make docs` from src/referee/verdicts.py and src/referee/policy.py. -->",
        "",
        "A verdict says how an attempt ended and whose doing it was. The tables below are printed from those that the",
        "program itself reads.",
        "",
        "## Every verdict",
        "",
        "| verdict | blame | meaning | what the participant is told | next |",
        "|---|---|---|---|---|",
    ]
    for verdict, meaning in MEANINGS.items():
        rows = " or ".join(sorted({ending(outcome).value for outcome in _samples(verdict)}))
        lines.append(
            f"| `{verdict.value}` | {meaning.blame.value} | {meaning.meaning} | {meaning.participant} | {rows} |"
        )
    lines += [
        "",
        "## What comes next",
        "",
        "| an attempt ended by | counted with | may happen | before that | at the last | counted against | why |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, rule) for name, rule in TABLE.items()]
    lines += ["", *_rules_of_hosts(), ""]
    return "\n".join(lines)


def _samples(verdict: Verdict) -> tuple[Outcome, ...]:
    return Outcome("", verdict), Outcome("", verdict, is_reference=False)


_DEMANDS = {
    Demand.ANY: "run again",
    Demand.REFERENCE: "run again on the reference machine type",
    Demand.MORE_GPU_MEMORY: "run again with more GPU memory, where there is such a machine",
}


def _row(name: Ending, rule: Rule) -> str:
    together = [other.value for other, row in TABLE.items() if row.group == rule.group and other is not name]
    times = "once" if rule.cap == 1 else f"{rule.cap} times"
    before = "-" if rule.cap == 1 else _DEMANDS[rule.demand] + (", on another node" if rule.elsewhere else "")
    last = "final" if rule.final else "ends, for the operator to see and to reopen"
    cells = (name.value, ", ".join(together) or "-", times, before, last, rule.pays.value, rule.reason)
    return f"| {' | '.join(cells)} |"


def _rules_of_hosts() -> list[str]:
    return [
        f"No evaluation needs more than {MOST_ATTEMPTS} attempts in one round, whatever happens; the first terminal",
        "row that is reached decides, and what comes later changes nothing. Money for machines is always the host's;",
        '"counted against" says whether an attempt is held against the submission.',
        "",
        "Where the challenge asks for a smoke run, it comes first, on a few files. One that passes counts for nothing",
        "else than that the full run follows; one that does not counts as any attempt does, so a fault of the",
        "submission ends the evaluation there and then.",
        "",
        "## Nodes, and the whole dispatch",
        "",
        f"- {QUARANTINE_AFTER} host faults in a row, of different evaluations, quarantine a node until the operator",
        "  releases it. A valid result or a fault of the submission begins the count anew.",
        f"- Dispatch stops when, of the last {BREAKER_WINDOW} attempts that say something about the hosts, at least",
        f"  {BREAKER_FAULTS} ended by a host fault, from at least {BREAKER_EVALUATIONS} evaluations and at least",
        f"  {BREAKER_NODES} nodes. It goes on when the operator says so. A spot machine that is taken back",
        "  says nothing about the hosts, nor does a job that was taken back before it began.",
    ]


if __name__ == "__main__":
    print(document(), end="")  # the one effect: `python -m referee.policy_document > docs/verdicts.md`
