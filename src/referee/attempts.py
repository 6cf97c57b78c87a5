"""An attempt as the controller orders it and as the worker answers: frozen, and JSON on the wire.

A specification never holds labels, team names or other attempts' keys. It is written to the object
store before the attempt is submitted to an engine; the worker is started with its location only.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError

from referee.challenge import Contract, Frozen, Limits, PredictionFormat
from referee.errors import HostError
from referee.verdicts import Verdict


def _in_utc(moment: datetime) -> datetime:
    # Years of fewer than four digits are no dates that a ledger could be read back with.
    if not _EARLIEST < moment.year < _LATEST:
        raise ValueError(f"its year is not between {_EARLIEST} and {_LATEST}")
    return moment.astimezone(UTC)


_EARLIEST, _LATEST = 1970, 9000

# What a worker says becomes an event of the ledger, which takes nothing odd.
_LARGEST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Number = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
_LONGEST_SECONDS = 1e10  # three centuries: what a timedelta, and money by the hour, can be made of
Seconds = Annotated[float, Field(ge=0, le=_LONGEST_SECONDS)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Word = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class AttemptSpec(Frozen):
    """One execution of one evaluation.

    Attributes:
        attempt: the attempt's name, unique for ever, such as `s-4f21c9.private_test.1`.
        evaluation: `<blind id>.<phase>`.
        image: digest (`sha256:…`) of the image's manifest in the image store.
        phase_data_key: key of the JSON of `PhaseData` in the object store.
        items: the files to predict; `None` for all of the phase.
        result_key: unguessable folder in the object store under which this attempt alone writes its result.
        private: logs of private phases stay with the operator.
        level: the isolation level to run at (`runc` or `gvisor`).
        accepted_risks: promises of the sandbox that the operator does without, by name.
        machine_type: name of the machine type that it was assigned to.
        wall_time_scale: factor on `limits.wall_time` for this machine type.
        avoid_nodes: nodes that it shall not run on, if there are others.
    """

    attempt: str
    evaluation: str
    campaign: str
    submission: str
    phase: str
    image: str
    phase_data_key: str
    items: tuple[str, ...] | None = None
    result_key: str
    private: bool
    gpus: int = 0
    level: str = "runc"
    machine_type: str = "local"
    accepted_risks: tuple[str, ...] = ()
    wall_time_scale: float = 1.0
    avoid_nodes: tuple[str, ...] = ()
    contract: Contract
    limits: Limits
    predictions: PredictionFormat


class Measurements(Frozen):
    """What the host measured, from outside the container. Sizes in bytes, times in seconds.

    `preparation_seconds` is staging, unpacking and start; `nearest_limit` names the limit of which the
    largest share was used, and `nearest_limit_share` that share (1.0 is the limit).
    """

    model_config = ConfigDict(allow_inf_nan=False)

    wall_seconds: Seconds
    cpu_seconds: Seconds
    peak_memory_bytes: Count
    preparation_seconds: Seconds = 0.0
    oom_kills: Count = 0
    pids_peak: Count | None = None
    pids_refused: Count = 0
    output_bytes: Count = 0
    output_files: Count = 0
    log_bytes: Count = 0
    gpu_peak_memory_bytes: Count | None = None
    nearest_limit: Word | None = None
    nearest_limit_share: float | None = None


class AttemptResult(Frozen):
    """How one attempt ended.

    Attributes:
        detail: for the operator only; may quote what the submission did.
        signature: a redacted line for the participant: a class of failure and a row number at most.
        predictions_digest: `sha256:…` of the accepted prediction file, stored beside the result.
        log_digest: `sha256:…` of the kept part of the log, stored beside the result.
    """

    attempt: Word
    verdict: Verdict
    exit_status: Number | None = None
    signal: Number | None = None
    detail: str = ""
    signature: str = ""
    measurements: Measurements | None = None
    predictions_digest: Digest | None = None
    predictions_rows: Count | None = None
    log_digest: Digest | None = None
    node: Word
    boot_id: str
    machine_type: str
    level: str
    started_at: Moment
    ended_at: Moment
    worker_version: str


def read_result(data: bytes, attempt: str) -> AttemptResult:
    """The result of `attempt` as its worker wrote it. A node may be broken, or not ours: nothing in it is believed.

    Raises:
        HostError: if it is not a result, or that of another attempt.
    """
    hint = "Look at the node that wrote it."
    try:
        result = AttemptResult.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = next((part for part in first["loc"] if part in AttemptResult.model_fields), "it")  # never a foreign key
        raise HostError(f"The result of {attempt} cannot be read: {place}: {first['msg']}.", hint=hint) from error
    if result.attempt != attempt:
        raise HostError(f"The result under the key of {attempt} names another attempt.", hint=hint)
    if result.verdict is Verdict.OK and result.predictions_digest is None:
        raise HostError(f"The result of {attempt} says that it is valid, and names no predictions.", hint=hint)
    return result


def read_claim(data: bytes) -> str | None:
    """The node that an attempt's claim names; `None` if it cannot be read: a claim is for people to look at."""
    try:
        return _WORD.validate_python(json.loads(data)["node"], strict=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


_WORD: TypeAdapter[str] = TypeAdapter(Word)
