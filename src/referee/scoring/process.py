"""The scoring process: `python -m referee.scoring.process`, started by `referee.scoring.score` alone.

It reads frames from its standard input (lengths of head and body as two big-endian 32-bit numbers, a JSON head, a
body): first the order, then one frame for each prediction file. After the last it answers with one JSON document.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from referee import __version__
from referee.challenge import MetricChoice, PredictionFormat
from referee.errors import CheckFailedError, ConfigurationError, HostError
from referee.sandbox import kernel

_BATCH_VALUES = 2**22  # 32 MiB of float64 wait for the metrics at a time
_FRAME = struct.Struct(">II")


def main() -> int:
    """Answer the order on standard input; the exit status is 0 even if the answer is an explained error."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    order, _ = _frame(source)
    try:
        _confine(order["limits"])
        answer = _answer(order, source)
    except (CheckFailedError, ConfigurationError, HostError) as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    target.write(json.dumps(answer).encode())
    target.flush()
    return 0


def _confine(limits: dict[str, int]) -> None:
    """Give up network, large memory, endless time and writing to disk, before labels or predictions are read."""
    try:
        kernel.unshare(kernel.NEW_NETWORK)
    except OSError:
        try:
            kernel.unshare(kernel.NEW_USERS | kernel.NEW_NETWORK)
        except OSError as error:
            raise HostError(
                f"The scoring process cannot give up the network ({error.strerror}).",
                hint="Allow unprivileged user namespaces, or score as root.",
            ) from error
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"],) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(order: dict[str, Any], source: IO[bytes]) -> dict[str, Any]:
    # Imported under the limits: packages that bring metrics of their own are loaded here.
    import numpy as np  # noqa: PLC0415

    from referee.predictions import PredictionError, read_labels, read_predictions  # noqa: PLC0415
    from referee.scoring.leaderboard import constant_half  # noqa: PLC0415
    from referee.scoring.metric import chosen_metrics  # noqa: PLC0415

    layout = PredictionFormat.model_validate(order["layout"])
    labels = read_labels(Path(order["labels"]), layout, expected=order["names"])
    if labels.digest != order["labels_digest"]:
        raise CheckFailedError(
            f"The label file {order['labels']} is not the one that the ledger holds ({order['labels_digest']}).",
            hint="Put the recorded labels back; changed labels are a matter for a rejudging, not for a silent score.",
        )
    metrics = chosen_metrics(MetricChoice.model_validate(order["choice"]))
    scores: dict[str, dict[str, str]] = {}
    refused: dict[str, str] = {}
    batch: dict[str, Any] = {}

    def score_batch() -> None:
        if not batch:
            return
        board = np.stack(list(batch.values()))
        columns = {metric.name: metric.score(labels.values, board) for metric in metrics}
        for place, evaluation in enumerate(batch):
            found = {name: float(values[place]) for name, values in columns.items()}
            # An undefined score is no score: the ledger holds finite numbers, as the text that reads back the same.
            scores[evaluation] = {name: repr(value) for name, value in found.items() if np.isfinite(value)}
            if not scores[evaluation]:
                refused[evaluation] = "No metric of the challenge is defined for these predictions."
        batch.clear()

    for head, data in _frames(source):
        try:
            predictions = read_predictions(data, labels.names, layout, limit_bytes=order["limit_bytes"])
        except PredictionError as error:
            refused[head["evaluation"]] = f"The stored predictions are not valid any more: {error.message}"
            continue
        if predictions.digest != head["digest"]:
            refused[head["evaluation"]] = "The stored predictions are not those that the ledger holds."
            continue
        batch[head["evaluation"]] = predictions.values
        if len(batch) * len(labels.names) >= _BATCH_VALUES:
            score_batch()
    score_batch()
    reference = constant_half(metrics[0], labels.values)
    return {
        "scores": scores,
        "refused": refused,
        "reference": None if reference is None else repr(reference),
        "version": f"referee {__version__}, numpy {np.__version__}",
    }


def _frame(source: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    sizes = source.read(_FRAME.size)
    head_size, data_size = _FRAME.unpack(sizes)
    return json.loads(source.read(head_size)), source.read(data_size)


def _frames(source: IO[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    # At a frame's border only: if the controller dies in the middle of one, unpacking fails and nothing is answered.
    while source.peek(1):  # type: ignore[attr-defined]  # standard input is a BufferedReader
        yield _frame(source)


if __name__ == "__main__":
    sys.exit(main())
