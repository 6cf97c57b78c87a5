"""Scoring valid results, in a process of its own that runs no submission's code.

The controller only carries bytes: it takes each prediction file from the object store and hands it, with the digest
that the ledger holds, to `referee.scoring.process`. That process alone opens the labels and parses the files, under
limits on memory, CPU time and files, and without a network.
"""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from referee.challenge import MetricChoice, PredictionFormat
from referee.errors import CheckFailedError, ConfigurationError, HostError, RefereeError
from referee.ledger.events import EvaluationScored
from referee.ledger.queries import AttemptRow, EvaluationRow, ScoreRow
from referee.objects import ObjectMissingError, ObjectStore, ObjectTooLargeError
from referee.scoring.metric import Metric, chosen_metrics
from referee.verdicts import Verdict


class ScoringError(RefereeError):
    """The scoring process ended without an answer."""

    exit_code = 3


_ERRORS: dict[str, type[RefereeError]] = {
    kind.__name__: kind for kind in (CheckFailedError, ConfigurationError, HostError)
}


@dataclass(frozen=True, slots=True)
class ScoringLimits:
    """What the scoring process may use. CPU time grows with the number of files."""

    memory_bytes: int = 4 * 2**30
    cpu_seconds: int = 60
    cpu_seconds_for_each: float = 0.5


@dataclass(frozen=True, slots=True)
class Refused:
    """A valid result that could not be scored, and why; a matter for the operator, never for the submission."""

    evaluation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scoring:
    """What came of scoring a phase.

    Attributes:
        events: one for each evaluation that got new scores, ready to be appended to the ledger.
        refused: results that are missing, were changed after they were recorded, or are undefined under every metric.
        already: how many evaluations had all their scores.
        reference_score: what a constant 0.5 scores by the primary metric on these labels; None if undefined, or if
            nothing had to be scored.
    """

    events: tuple[EvaluationScored, ...]
    refused: tuple[Refused, ...]
    already: int
    reference_score: float | None


@dataclass(frozen=True, slots=True)
class _Task:
    evaluation: str
    key: str
    predictions_digest: str
    metrics: tuple[str, ...]


def score_evaluations(
    phase: str,
    *,
    evaluations: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    scores: Sequence[ScoreRow],
    store: ObjectStore,
    names: Sequence[str],
    labels: Path,
    labels_digest: str,
    choice: MetricChoice,
    layout: PredictionFormat,
    limit_bytes: int,
    limits: ScoringLimits | None = None,
) -> Scoring:
    """Score what is valid on `phase` and has no score yet.

    Args:
        phase: the phase's name.
        evaluations: as the ledger holds them (`queries.evaluations`).
        attempts: as the ledger holds them; where the predictions lie follows from them.
        scores: as the ledger holds them; an evaluation keeps the scores that it has.
        store: the object store.
        names: the phase's files (`PhaseData.names`).
        labels: the label file.
        labels_digest: `sha256:…` of it, as the ledger holds it.
        choice: the challenge's metrics.
        layout: how prediction and label files look.
        limit_bytes: no prediction file is larger (the contract's output limit).
        limits: of the scoring process.

    Raises:
        ConfigurationError: if the labels or the metrics are not usable.
        CheckFailedError: if the label file is not the one that the ledger holds.
        HostError: if the scoring process cannot give up the network.
        ScoringError: if the scoring process was ended by its limits.
    """
    metrics = chosen_metrics(choice)
    tasks, already = _tasks(phase, metrics, evaluations, attempts, scores)
    if not tasks:
        return Scoring((), (), already, None)
    header = {
        "names": list(names),
        "labels": str(labels.absolute()),
        "labels_digest": labels_digest,
        "choice": choice.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json"),
        "limit_bytes": limit_bytes,
        "limits": _kernel_limits(limits or ScoringLimits(), len(tasks)),
    }
    refused: list[Refused] = []
    answer = _converse(header, _frames(tasks, store, limit_bytes, refused))
    events = []
    for task in tasks:
        values = answer["scores"].get(task.evaluation, {})
        new = {metric: values[metric] for metric in task.metrics if metric in values}
        if new:
            events.append(
                EvaluationScored(
                    evaluation=task.evaluation,
                    scores=new,
                    predictions_digest=task.predictions_digest,
                    labels_digest=labels_digest,
                    scorer_version=answer["version"],
                )
            )
    refused += [Refused(evaluation, reason) for evaluation, reason in answer["refused"].items()]
    reference = answer["reference"]
    return Scoring(tuple(events), tuple(refused), already, None if reference is None else float(reference))


def _tasks(
    phase: str,
    metrics: Sequence[Metric],
    evaluations: Sequence[EvaluationRow],
    attempts: Sequence[AttemptRow],
    scores: Sequence[ScoreRow],
) -> tuple[list[_Task], int]:
    places = {attempt.attempt: f"results/{attempt.result_key}/predictions.csv" for attempt in attempts}
    known: dict[str, set[str]] = {}
    for score in scores:
        known.setdefault(score.evaluation, set()).add(score.metric)
    tasks, already = [], 0
    for row in sorted(evaluations, key=lambda row: row.evaluation):
        if row.phase != phase or row.verdict is not Verdict.OK or row.attempt is None or row.predictions_digest is None:
            continue
        due = tuple(metric.name for metric in metrics if metric.name not in known.get(row.evaluation, set()))
        if not due:
            already += 1
            continue
        tasks.append(_Task(row.evaluation, places[row.attempt], row.predictions_digest, due))
    return tasks, already


def _frames(
    tasks: Sequence[_Task], store: ObjectStore, limit_bytes: int, refused: list[Refused]
) -> Iterator[tuple[dict[str, str], bytes]]:
    for task in tasks:
        try:
            data = store.get(task.key, limit_bytes=limit_bytes)
        except (ObjectMissingError, ObjectTooLargeError) as error:
            refused.append(Refused(task.evaluation, str(error)))
            continue
        yield {"evaluation": task.evaluation, "digest": task.predictions_digest}, data


def _kernel_limits(limits: ScoringLimits, files: int) -> dict[str, int]:
    return {
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds + round(limits.cpu_seconds_for_each * files),
    }


def _converse(header: Mapping[str, Any], frames: Iterator[tuple[dict[str, str], bytes]]) -> dict[str, Any]:
    """Send everything, then read the one answer: the process answers only after the last file, so neither waits."""
    command = [sys.executable, "-I", "-m", "referee.scoring.process"]
    environment = {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with (
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
        ) as process,
        ThreadPoolExecutor(1) as thread,
    ):
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101 - asked for above
        assert process.stderr is not None  # noqa: S101 - asked for above
        complaints = thread.submit(_last_words, process.stderr)
        try:
            try:
                _send(process.stdin, json.dumps(header).encode(), b"")
                for frame, data in frames:
                    _send(process.stdin, json.dumps(frame).encode(), data)
                process.stdin.close()
            except BrokenPipeError:
                # It ended early; its answer or its status says why. Closing once more lets go of what was not sent.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            answer = process.stdout.read()
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        return _understood(status, answer, complaints.result())


def _last_words(pipe: IO[bytes]) -> str:
    kept = b""
    while chunk := pipe.read(4000):
        kept = (kept + chunk)[-4000:]
    return kept.decode("utf-8", "replace").strip()


def _send(pipe: IO[bytes], head: bytes, data: bytes) -> None:
    pipe.write(struct.pack(">II", len(head), len(data)) + head + data)


def _understood(status: int, answer: bytes, said: str) -> dict[str, Any]:
    if status == 0 and answer:
        found: dict[str, Any] = json.loads(answer)
        if "error" not in found:
            return found
        raise _ERRORS[found["error"]](found["message"], hint=found["hint"])
    last = said.splitlines()[-1] if said else "it said nothing"
    raise ScoringError(
        f"The scoring process ended with status {status} before it answered ({last}).",
        hint="If its limits on memory or CPU time are too small for this board, raise them and score again.",
    )
