"""What is recorded of an attempt before it runs, and what its worker is told."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from referee.attempts import AttemptSpec
from referee.challenge import Challenge, MachineType
from referee.ledger import AttemptPlanned, queries
from referee.objects import ObjectMissingError, ObjectStore
from referee.orders import smoke_items
from referee.phases import PhaseData
from referee.routing import Route, limits_on

_SIDE_BY_SIDE = 16  # a bucket answers a put after tens of milliseconds, and a wave has thousands


def intended(
    challenge: Challenge, row: queries.EvaluationRow, found: Route, *, engine: str, smoke: bool
) -> AttemptPlanned:
    """The next attempt of an evaluation on the machine type that was found for it, under a result key of its own."""
    return AttemptPlanned(
        attempt=f"{row.evaluation}.{row.attempts + 1}",
        evaluation=row.evaluation,
        number=row.attempts + 1,
        machine_type=found.machine_type,
        engine=engine,
        result_key=secrets.token_hex(16),
        level=challenge.sandbox.level,
        reference=found.reference,
        wall_time_scale=found.wall_time_scale,
        smoke=smoke,
    )


def specified(
    challenge: Challenge,
    row: queries.EvaluationRow,
    intent: AttemptPlanned | queries.AttemptRow,
    *,
    campaign: str,
    data: PhaseData,
    machine: MachineType,
    few: bool,
    avoided: Collection[str],
) -> AttemptSpec:
    """What the worker of an intended attempt is told.

    Args:
        challenge: the challenge.
        row: the evaluation.
        intent: what was recorded of the attempt.
        campaign: its random name.
        data: the phase's recorded files.
        machine: the machine type of the attempt.
        few: whether it runs on a few files only.
        avoided: nodes that it is to leave out, where there are others.
    """
    items = challenge.smoke.items if few else None
    return AttemptSpec(
        attempt=intent.attempt,
        evaluation=row.evaluation,
        campaign=campaign,
        submission=row.submission,
        phase=row.phase,
        image=row.image,
        phase_data_key=data.key,
        items=None if items is None else smoke_items(data.names, items),
        result_key=intent.result_key,
        private=challenge.phase(row.phase).visibility == "private",
        gpus=challenge.limits.gpus if row.submission_kind == "gpu" else 0,
        level=intent.level,
        accepted_risks=challenge.sandbox.accepted_risks,
        machine_type=intent.machine_type,
        wall_time_scale=intent.wall_time_scale,
        avoid_nodes=tuple(sorted(avoided)),
        contract=challenge.contract,
        limits=limits_on(challenge.limits, machine),
        predictions=challenge.predictions,
    )


def store_specs(objects: ObjectStore, specs: Sequence[AttemptSpec]) -> None:
    """Put them where workers, and a later controller, find them."""

    def store(spec: AttemptSpec) -> None:
        objects.put_once(_key(spec.attempt), spec.model_dump_json().encode())

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        list(pool.map(store, specs))


def stored_spec(objects: ObjectStore, attempt: str) -> AttemptSpec | None:
    """What the attempt's worker is told; None if it was not stored."""
    try:
        return AttemptSpec.model_validate_json(objects.get(_key(attempt)))
    except ObjectMissingError:
        return None


def _key(attempt: str) -> str:
    return f"specs/{attempt}.json"
