"""The scoring process: `python -m referee.scoring.process`, started by `referee.scoring.scorer` alone.

It reads frames from its standard input (lengths of head and body as two big-endian 32-bit numbers, a JSON head, a
body): first the order, then one frame for each prediction file. After the last it answers with one JSON document.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from referee import __version__
from referee.challenge import MetricChoice, PredictionFormat
from referee.errors import CheckFailedError, ConfigurationError, HostError
from referee.sandbox import kernel

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

    from referee.predictions import read_labels  # noqa: PLC0415
    from referee.scoring.metric import chosen_metrics  # noqa: PLC0415
    from referee.scoring.tasks import TASKS, Given  # noqa: PLC0415

    layout = PredictionFormat.model_validate(order["layout"])
    labels = read_labels(Path(order["labels"]), layout, expected=order["names"])
    if labels.digest != order["labels_digest"]:
        raise CheckFailedError(
            f"The label file {order['labels']} is not the one that the ledger holds ({order['labels_digest']}).",
            hint="Put the recorded labels back; changed labels are a matter for `referee rejudge stage`.",
        )
    refused: dict[str, str] = {}
    given = Given(
        order=order,
        metrics=chosen_metrics(MetricChoice.model_validate(order["choice"])),
        names=labels.names,
        labels=labels.values,
        predictions=_accepted(_frames(source), labels.names, layout, order["limit_bytes"], refused),
        refused=refused,
    )
    answer = TASKS[order["task"]](given)
    return answer | {"refused": refused, "version": f"referee {__version__}, numpy {np.__version__}"}


def _accepted(
    frames: Iterator[tuple[dict[str, Any], bytes]],
    names: Sequence[str],
    layout: PredictionFormat,
    limit_bytes: int,
    refused: dict[str, str],
) -> Iterator[tuple[str, Any]]:
    """Each evaluation with its predictions, read strictly once more; the others go to `refused`."""
    from referee.predictions import PredictionError, read_predictions  # noqa: PLC0415 - as above
    from referee.scoring.recorded import read_recorded_predictions  # noqa: PLC0415 - as above

    for head, data in frames:
        if "recorded" in head:
            yield head["evaluation"], read_recorded_predictions(data, names, layout)
            continue
        try:
            predictions = read_predictions(data, names, layout, limit_bytes=limit_bytes)
        except PredictionError as error:
            refused[head["evaluation"]] = f"The stored predictions are not valid any more: {error.message}"
            continue
        if predictions.digest != head["digest"]:
            refused[head["evaluation"]] = "The stored predictions are not those that the ledger holds."
            continue
        yield head["evaluation"], predictions.values


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
