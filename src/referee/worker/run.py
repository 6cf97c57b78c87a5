"""One attempt on one node: claim, stage, prove, run, measure, check, judge, publish."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from referee.attempts import AttemptResult, AttemptSpec, Measurements
from referee.boot import boot_id
from referee.errors import ConfigurationError
from referee.images.model import UnpackedImage
from referee.images.node import NodeImages
from referee.images.supply import ObjectImages
from referee.objects import ObjectStore
from referee.phases import PhaseData
from referee.predictions import PredictionError, read_predictions
from referee.sandbox import Box, BoxOutcome, Refusal, prove_host, sandbox_policy
from referee.verdicts import Verdict
from referee.worker.claims import claim, note_duplicate
from referee.worker.faults import host_fault
from referee.worker.gpu_memory import gpu_memory_reported
from referee.worker.judge import Evidence, Found, Judgement, Trial, judge
from referee.worker.lock import box_folder, run_folder
from referee.worker.measure import measurements
from referee.worker.phase_files import NodeData
from referee.worker.publishing import Files, publish
from referee.worker.staging import stage
from referee.worker.stopping import REASON, Stopped, Stopping
from referee.worker.trial import try_known_good

WORKER_VERSION = version("referee")

_DETAIL_CHARACTERS = 4000
_MOST_LOG_BYTES = 64 << 20  # on a machine whose disk is not the operator's


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker was put.

    Attributes:
        node: the machine's name.
        job: the engine's name for the worker.
        cpus: processors that it has to itself; empty for a share of all.
        gpus: UUIDs of the GPUs that it has to itself.
        cache_bytes: the most that unpacked images may take on this node.
        travelled: the phase's files come out of the object store, not from a folder that this machine has.
        data_bytes: the most that such files may take on this node.
        risks: the promises of the sandbox that this machine's owner lets an attempt do without; None for any.
    """

    node: str
    job: str
    cpus: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    cache_bytes: int | None = None
    travelled: bool = False
    data_bytes: int | None = None
    risks: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Course:
    """How far the attempt has come: whose fault an exception would be, and when it began."""

    began: float = field(default_factory=time.monotonic)
    stage: Verdict = Verdict.SANDBOX_FAILED


@dataclass(frozen=True, slots=True)
class _Ending:
    judgement: Judgement
    outcome: BoxOutcome | None = None
    measured: Measurements | None = None
    rows: int | None = None
    files: Files = field(default_factory=Files)


def run_attempt(
    spec: AttemptSpec, objects: ObjectStore, node_folder: Path, place: Place, stopping: Stopping | None = None
) -> AttemptResult:
    """Execute the attempt and publish its result. Call it as PID 1 of a worker's namespaces (`supervise`).

    Returns:
        The result as published; with the verdict `duplicate`, which is not published, if another worker has the claim.

    Raises:
        AlreadyExistsError: another result was published under this attempt's key. It counts.
        ObjectStoreError: nothing can be claimed or published.
    """
    stopping = stopping or Stopping()
    started_at, began = datetime.now(UTC), time.monotonic()
    boot = boot_id()
    if claim(objects, spec.attempt, job=place.job, node=place.node, boot_id=boot):
        ending = _execute(spec, objects, node_folder, place, stopping)
    else:
        ending = _Ending(Judgement(Verdict.DUPLICATE, "Another worker has claimed this attempt.", ""))
        note_duplicate(objects, spec.attempt, job=place.job, node=place.node, boot_id=boot)
    outcome, judgement = ending.outcome, ending.judgement
    result = AttemptResult(
        attempt=spec.attempt,
        verdict=judgement.verdict,
        exit_status=outcome.exit_status if outcome else None,
        signal=outcome.signal if outcome else None,
        detail=_printable(judgement.detail),
        signature=judgement.signature,
        measurements=ending.measured,
        predictions_rows=ending.rows,
        node=place.node,
        boot_id=boot,
        machine_type=spec.machine_type,
        level=spec.level,
        started_at=started_at,
        ended_at=started_at + timedelta(seconds=time.monotonic() - began),  # hours are paid for: no clock may turn them
        worker_version=WORKER_VERSION,
    )
    return result if judgement.verdict is Verdict.DUPLICATE else publish(objects, spec, result, ending.files)


def _execute(spec: AttemptSpec, objects: ObjectStore, node_folder: Path, place: Place, stopping: Stopping) -> _Ending:
    course = _Course()
    try:
        with ExitStack() as held:
            with stopping.preparing():
                data, image = _prepare(spec, objects, node_folder, place, course, held)
            return _run(spec, data, image, run_folder(node_folder, spec.attempt), place, stopping, course)
    except Stopped:
        return _Ending(Judgement(Verdict.INTERRUPTED, f"{REASON} Its container had not started.", ""))
    except Exception as error:  # noqa: BLE001 - whatever fails here is ours, and must end in a verdict of the host's
        return _Ending(host_fault(error, course.stage))


def _prepare(
    spec: AttemptSpec, objects: ObjectStore, node_folder: Path, place: Place, course: _Course, held: ExitStack
) -> tuple[PhaseData, UnpackedImage]:
    course.stage = Verdict.DATA_UNAVAILABLE
    data = PhaseData.model_validate_json(objects.get(spec.phase_data_key))
    if place.travelled:
        files = NodeData(node_folder, objects, place.data_bytes or _half_the_disk(node_folder))
        data = held.enter_context(files.acquire(data))
    stage(data, node_folder, boot_id())
    course.stage = Verdict.SANDBOX_FAILED
    if len(place.gpus) != spec.gpus:
        raise ConfigurationError(
            f"The attempt was given {len(place.gpus)} GPUs instead of {spec.gpus}.",
            hint="The engine must assign them. On Slurm gres.conf, ConstrainDevices=yes, /etc/cdi and the warden's "
            "`gpus = true` must agree.",
        )
    if place.risks is not None and (unaccepted := set(spec.accepted_risks) - set(place.risks)):
        raise ConfigurationError(
            f"This machine's owner does not accept the risks {', '.join(sorted(unaccepted))}.",
            hint="Ask for them, or do without `accepted_risks`.",
        )
    if place.travelled and spec.limits.log > _MOST_LOG_BYTES:
        raise ConfigurationError("The limit on the log is too high: it lies on this node's disk.", hint="Lower it.")
    prove_host(node_folder, spec.level, spec.accepted_risks)
    if place.cpus:
        os.sched_setaffinity(0, place.cpus)
    course.stage = Verdict.IMAGE_UNAVAILABLE
    cache_bytes = place.cache_bytes or _half_the_disk(node_folder)
    images = NodeImages(node_folder, ObjectImages(objects), cache_bytes)
    image = held.enter_context(images.acquire(spec.image))
    course.stage = Verdict.SANDBOX_FAILED
    return data, image


def _run(
    spec: AttemptSpec,
    data: PhaseData,
    image: UnpackedImage,
    folder: Path,
    place: Place,
    stopping: Stopping,
    course: _Course,
) -> _Ending:
    policy = sandbox_policy(spec.contract, spec.limits, spec.wall_time_scale, spec.level, place.gpus)
    inside = box_folder(folder)
    inside.mkdir(mode=0o700)
    preparation = timedelta(seconds=time.monotonic() - course.began)
    left: bytes | Refusal | None = None
    with (folder / "log").open("w+b", buffering=0) as log:
        with Box(policy, image, data.location, spec.items, inside) as box:
            with stopping.running(box):
                outcome = box.run(log)
            if outcome.started and outcome.ended_by == "itself" and outcome.exit_status == 0:
                left = box.harvest(spec.contract.predictions, spec.limits.output)
        log.seek(0)
        kept = log.read(spec.limits.log)
    trial = Trial.NOT_MADE
    if not outcome.started and not outcome.bad_image and outcome.ended_by != "kill":
        trial = try_known_good(policy, data.location, spec.items, folder, stopping)
    seen = _evidence(spec, outcome, trial, kept)
    predictions, rows = None, None
    if left is not None:
        course.stage = Verdict.DATA_UNAVAILABLE  # only the phase's own list of files can still be the reason
        seen, rows = _check(seen, left, spec, data)
        predictions = left if rows is not None and isinstance(left, bytes) else None
    measured = measurements(outcome, spec.limits, spec.wall_time_scale, preparation) if outcome.started else None
    return _Ending(judge(seen), outcome, measured, rows, Files(predictions, kept))


def _evidence(spec: AttemptSpec, outcome: BoxOutcome, trial: Trial, log: bytes) -> Evidence:
    return Evidence(
        started=outcome.started,
        ended_by=outcome.ended_by,
        exit_status=outcome.exit_status,
        signal=outcome.signal,
        oom_kills=outcome.oom_kills,
        host_oom_kills=outcome.host_oom_kills,
        image_refused=outcome.bad_image,
        trial=trial,
        gpu_memory_reported=spec.gpus > 0 and gpu_memory_reported(log, outcome.log_tail),
        problem=outcome.start_error,
    )


def _check(seen: Evidence, left: bytes | Refusal, spec: AttemptSpec, data: PhaseData) -> tuple[Evidence, int | None]:
    """What lay at the agreed path, added to the evidence, and the number of rows if it is accepted."""
    if isinstance(left, Refusal):
        found = Found.NOTHING if left.kind == "missing" else Found.REFUSED
        public = f"{left.kind.replace('_', ' ')}: the predictions file was not taken"
        return replace(seen, found=found, problem=left.reason, public_problem=public), None
    expected = data.names if spec.items is None else spec.items
    try:
        read = read_predictions(left, expected, spec.predictions, limit_bytes=spec.limits.output)
    except PredictionError as error:
        return replace(seen, found=Found.REFUSED, problem=error.message, public_problem=error.public), None
    return replace(seen, found=Found.ACCEPTED), read.rows


def _half_the_disk(node_folder: Path) -> int:
    facts = os.statvfs(node_folder)
    return facts.f_frsize * facts.f_blocks // 2


def _printable(text: str) -> str:
    """Text that may quote a submission, safe for terminals, pages and JSON."""
    cut = text if len(text) <= _DETAIL_CHARACTERS else text[:_DETAIL_CHARACTERS] + "…"
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in cut)
