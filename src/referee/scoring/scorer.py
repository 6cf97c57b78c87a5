"""The scorer as the controller sees it: a process that is given bytes and labels, and gives one answer.

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
from itertools import chain
from pathlib import Path
from typing import IO, Any

from referee.challenge import MetricChoice, PredictionFormat
from referee.errors import CheckFailedError, ConfigurationError, HostError, RefereeError
from referee.ledger.queries import AttemptRow, EvaluationRow
from referee.objects import ObjectMissingError, ObjectStore, ObjectTooLargeError
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
class Result:
    """A valid result: where its predictions lie, and the digest that the ledger holds of them."""

    evaluation: str
    submission: str
    team: str
    image: str
    key: str
    predictions_digest: str


def valid_results(
    phase: str, evaluations: Sequence[EvaluationRow], attempts: Sequence[AttemptRow]
) -> tuple[Result, ...]:
    """The valid results of a phase, by evaluation; where the predictions lie follows from the attempts."""
    places = {attempt.attempt: f"results/{attempt.result_key}/predictions.csv" for attempt in attempts}
    return tuple(
        Result(row.evaluation, row.submission, row.team, row.image, places[row.attempt], row.predictions_digest)
        for row in sorted(evaluations, key=lambda row: row.evaluation)
        if row.phase == phase and row.verdict is Verdict.OK and row.attempt and row.predictions_digest
    )


def scoring_order(
    task: str, names: Sequence[str], labels: Path, labels_digest: str, choice: MetricChoice, layout: PredictionFormat
) -> dict[str, Any]:
    """What every order to the scoring process says; the task's own part is added under the task's name.

    Args:
        task: one of `tasks.TASKS`.
        names: the phase's files.
        labels: the label file, which that process alone opens.
        labels_digest: `sha256:…` of it, as the ledger holds it.
        choice: the metrics.
        layout: how prediction and label files look.
    """
    return {
        "task": task,
        "names": list(names),
        "labels": str(labels.absolute()),
        "labels_digest": labels_digest,
        "choice": choice.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json"),
    }


def ask_scorer(
    order: Mapping[str, Any],
    results: Sequence[Result],
    store: ObjectStore,
    *,
    limit_bytes: int,
    limits: ScoringLimits | None = None,
    recorded: Mapping[str, Path] | None = None,
) -> tuple[dict[str, Any], list[Refused]]:
    """Hand an order and the results' files to the scoring process, and wait for its answer.

    Args:
        order: what `referee.scoring.process` is to do (`scoring_order`).
        results: whose predictions it needs.
        store: where they lie.
        limit_bytes: no prediction file is larger.
        limits: of the process.
        recorded: prediction files that a competition kept, by submission; they are read leniently, and handed on as
            `recorded/SUBMISSION`.

    Returns:
        The answer, and the results that could not be used.

    Raises:
        ConfigurationError: if labels, metadata or metrics are not usable.
        CheckFailedError: if the label file is not the one that the ledger holds.
        HostError: if the process cannot give up the network.
        ScoringError: if the process was ended by its limits.
    """
    refused: list[Refused] = []
    whole = dict(order) | {
        "limit_bytes": limit_bytes,
        "limits": _kernel_limits(limits or ScoringLimits(), len(results) + len(recorded or {})),
    }
    frames = chain(_frames(results, store, limit_bytes, refused), _kept(recorded or {}, limit_bytes))
    answer = _converse(whole, frames)
    refused += [Refused(evaluation, reason) for evaluation, reason in answer["refused"].items()]
    return answer, refused


def _frames(
    results: Sequence[Result], store: ObjectStore, limit_bytes: int, refused: list[Refused]
) -> Iterator[tuple[dict[str, str], bytes]]:
    for result in results:
        try:
            data = store.get(result.key, limit_bytes=limit_bytes)
        except (ObjectMissingError, ObjectTooLargeError) as error:
            refused.append(Refused(result.evaluation, str(error)))
            continue
        yield {"evaluation": result.evaluation, "digest": result.predictions_digest}, data


def _kept(recorded: Mapping[str, Path], limit_bytes: int) -> Iterator[tuple[dict[str, str], bytes]]:
    for submission, path in recorded.items():
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise ConfigurationError(
                f"The recorded predictions {path} are larger than the limit of the contract's output.",
                hint="Leave that file out, or raise limits.output.",
            )
        yield {"evaluation": f"recorded/{submission}", "recorded": "yes"}, data


def _kernel_limits(limits: ScoringLimits, files: int) -> dict[str, int]:
    return {
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds + round(limits.cpu_seconds_for_each * files),
    }


def _converse(header: Mapping[str, Any], frames: Iterator[tuple[dict[str, str], bytes]]) -> dict[str, Any]:
    """Send everything, then read the one answer: the process answers only after the last file, so neither waits."""
    command = [sys.executable, "-I", "-m", "referee.scoring.process"]
    # One thread: with several, OpenBLAS may sum in another order, and the same seed would not give the same bytes.
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
