"""What follows from a ledger and is in every bundle. The writer asks with the operator's ledger, the auditor with the
one that was made again from the bundle's chain; then both must be the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from pydantic import ValidationError
from sqlalchemy import select

from referee.challenge import Challenge
from referee.errors import LedgerError
from referee.ledger import Ledger, Link, PlanConfirmed, queries
from referee.ledger.chain import canonical_json
from referee.ledger.schema import ATTEMPTS, EVALUATIONS, PROJECTIONS, SCORES
from referee.scoring.boards import board_of

CHAIN = "ledger.jsonl"
CHALLENGE = "challenge.json"
ANCHORS = "anchors.jsonl"
IDENTITIES = "identities.jsonl"
CHAIN_LINE_BYTES = 16 * 2**20


def chain_lines(links: Iterable[Link]) -> Iterator[bytes]:
    """The chain, an event on each line."""
    for link in links:
        payload = json.loads(link.payload)
        fields = {name: getattr(link, name) for name in ("epoch", "hash", "kind", "prev", "seq", "time")}
        yield (canonical_json(fields | {"payload": payload}) + "\n").encode()


def recorded_challenge(ledger: Ledger) -> Challenge:
    """The challenge as it was last recorded.

    Raises:
        LedgerError: if none was, or it is none of this version.
    """
    recorded = queries.challenge(ledger)
    if recorded is None:
        raise LedgerError("No challenge was recorded yet.", hint="Begin with `referee run --phase PHASE`.")
    try:
        return Challenge.model_validate(json.loads(recorded.content))
    except (ValidationError, ValueError, RecursionError) as error:
        raise LedgerError(
            f"The recorded challenge cannot be read: {str(error)[:300]}.",
            hint="Use the version of Referee that recorded it, or a later one.",
        ) from error


def derived(ledger: Ledger) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Challenge, tables, boards and confirmed plans: each file's name and its lines (with their ends)."""
    challenge = recorded_challenge(ledger)
    recorded = queries.challenge(ledger)
    yield CHALLENGE, iter([(canonical_json(json.loads(recorded.content if recorded else "")) + "\n").encode()])
    for table in PROJECTIONS:
        query = select(table).order_by(*table.primary_key.columns)
        with ledger.read() as connection:
            rows = connection.execute(query)
            yield f"tables/{table.name}.jsonl", ((canonical_json(row._asdict()) + "\n").encode() for row in rows)
    run = {row.phase for row in queries.evaluations(ledger)}
    for phase in sorted(run):
        board = board_of(challenge, ledger, phase).to_json()
        yield f"boards/{phase}.json", iter(board.encode().splitlines(keepends=True))
    for recorded_plan in ledger.events(PlanConfirmed):
        plan = recorded_plan.event
        if isinstance(plan, PlanConfirmed):
            lines = ((line + "\n").encode() for line in plan.content.split("\n"))
            yield f"plans/{plan.phase}-{recorded_plan.seq}.json", lines


def wanted_predictions(ledger: Ledger) -> dict[str, str]:
    """Every prediction file that a standing result or a score rests on: its digest, and where the operator has it."""
    resting = (
        select(ATTEMPTS.c.predictions_digest, ATTEMPTS.c.result_key)
        .where(ATTEMPTS.c.predictions_digest.is_not(None))
        .where(
            ATTEMPTS.c.attempt.in_(select(EVALUATIONS.c.attempt).where(EVALUATIONS.c.predictions_digest.is_not(None)))
            | ATTEMPTS.c.predictions_digest.in_(select(SCORES.c.predictions_digest))
        )
        .order_by(ATTEMPTS.c.planned_seq)
    )
    found: dict[str, str] = {}
    with ledger.read() as connection:
        for digest, key in connection.execute(resting):
            found.setdefault(str(digest), f"results/{key}/predictions.csv")
    return found


def predictions_name(digest: str) -> str:
    """The file in the bundle that holds the predictions of this digest."""
    return f"predictions/{digest.removeprefix('sha256:')}.csv"


def phase_name(phase: str) -> str:
    """The file in the bundle that lists a phase's data."""
    return f"phases/{phase}.json"
