"""What is found of a campaign from outside: in its ledger by queries, in its object store, in what is printed."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from faults.storm import PHASE
from referee.challenge import MachineType
from referee.cli import main
from referee.ledger import queries
from referee.ledger.queries import AttemptRow
from referee.verdicts import Verdict
from referee.workspace import Workspace

_HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True)
class Findings:
    """A campaign that has ended.

    Attributes:
        verdicts: official, of each evaluation.
        attempts: as the ledger has them.
        events: as `referee ledger events --json` prints them.
        board: as `referee leaderboard --json` prints it.
        claims, results: of which attempts there are claims and results in the object store.
    """

    verdicts: Mapping[str, str | None]
    attempts: Sequence[AttemptRow]
    events: Sequence[dict[str, Any]]
    board: str
    claims: Sequence[str]
    results: Mapping[str, int]


def findings(workspace: Workspace, say: Callable[..., str]) -> Findings:
    """Score the campaign, check its chain, and read it; `say` runs a `referee` command and returns what it prints."""
    say("score", "--phase", PHASE)
    say("ledger", "verify")
    events = [json.loads(line) for line in say("ledger", "events", "--json").splitlines()]
    with workspace.ledger() as ledger:
        evaluations = queries.evaluations(ledger, PHASE)
        attempts = queries.attempts(ledger, phase=PHASE)
    by_key = {row.result_key: row.attempt for row in attempts}
    keys = [key.split("/") for key in workspace.objects.list("results")]
    results = Counter(by_key.get(key[1], f"(nobody's: {key[1]})") for key in keys if key[-1] == "result.json")
    claims = [key.removeprefix("claims/").removesuffix(".json") for key in workspace.objects.list("claims")]
    return Findings(
        verdicts={row.evaluation: None if row.verdict is None else str(row.verdict) for row in evaluations},
        attempts=attempts,
        events=events,
        board=say("leaderboard", "--phase", PHASE, "--json"),
        claims=claims,
        results=results,
    )


def content(workspace: Workspace) -> bool:
    """Whether an operator would leave it at that: nothing ended by a host's fault, which `resume` reopens."""
    with workspace.ledger() as ledger:
        rows = queries.evaluations(ledger, PHASE)
    return all(row.final or row.verdict is Verdict.UNROUTABLE for row in rows)


def said_here(folder: Path) -> Callable[..., str]:
    """What runs a `referee` command on a challenge within this process, which saves starting Python each time."""

    def say(*words: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            status = main([*words, "--challenge", str(folder)])
        if status:
            raise AssertionError(f"referee {words} ended with {status}: {said.getvalue()}")
        return said.getvalue()

    return say


def seconds(row: AttemptRow) -> Decimal | None:
    """How long an attempt lasted, as it is billed; None if that is not known."""
    if row.started_at is None or row.ended_at is None:
        return None
    spent = row.ended_at - row.started_at
    return Decimal(spent.days * 86_400 + spent.seconds) + Decimal(spent.microseconds) / 1_000_000


def most_committed_usd(
    events: Sequence[Mapping[str, Any]], machines: Mapping[str, MachineType], limit_seconds: float
) -> Decimal:
    """The most that was spent and committed together at any moment of the chain.

    What has not ended, or ended without telling its time, may cost its whole limit.
    """
    usd: dict[str, Decimal] = {}
    prices: dict[str, Decimal] = {}
    most = Decimal(0)
    for event in events:
        facts = event["payload"]
        if event["kind"] == "attempt.planned":
            prices[facts["attempt"]] = machines[facts["machine_type"]].price
            scale = Decimal(repr(limit_seconds * float(facts["wall_time_scale"])))
            usd[facts["attempt"]] = prices[facts["attempt"]] * scale / _HOUR
            most = max(most, sum(usd.values(), Decimal(0)))
        elif event["kind"] == "attempt.ended" and facts.get("started_at") and facts.get("ended_at"):
            begin, end = (datetime.fromisoformat(facts[key]) for key in ("started_at", "ended_at"))
            usd[facts["attempt"]] = prices[facts["attempt"]] * Decimal(repr((end - begin).total_seconds())) / _HOUR
    return most
