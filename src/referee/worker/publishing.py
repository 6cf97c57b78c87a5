"""Publishing a result: its files first, `result.json` last, all created once under the key that it was told."""

from __future__ import annotations

from dataclasses import dataclass

from referee.attempts import AttemptResult, AttemptSpec
from referee.digests import digest_of
from referee.errors import ObjectStoreError
from referee.objects import AlreadyExistsError, ObjectStore
from referee.verdicts import Verdict
from referee.worker.faults import host_fault

PREDICTIONS = "predictions.csv"
LOG = "log.txt"
RESULT = "result.json"


def result_key(spec: AttemptSpec, name: str) -> str:
    """Where a part of the attempt's result lies: `PREDICTIONS`, `LOG` or `RESULT`."""
    return f"results/{spec.result_key}/{name}"


@dataclass(frozen=True, slots=True)
class Files:
    """What is stored beside the result: accepted predictions, and the kept part of the log (the operator's alone)."""

    predictions: bytes | None = None
    log: bytes = b""


def publish(objects: ObjectStore, spec: AttemptSpec, result: AttemptResult, files: Files) -> AttemptResult:
    """Store the result and return it as it was stored.

    If its files cannot be stored, the attempt counts for nothing and is the host's fault; that is then the result.

    Raises:
        AlreadyExistsError: another result was published under the key before. It counts, and this one is refused.
        ObjectStoreError: the result itself cannot be stored.
    """
    try:
        result = result.model_copy(update=_store(objects, spec, files))
    except AlreadyExistsError:
        raise
    except ObjectStoreError as error:
        fault = host_fault(error, Verdict.RESULT_LOST)
        result = result.model_copy(
            update={"verdict": fault.verdict, "detail": fault.detail, "signature": "", "predictions_rows": None}
        )
    objects.put_once(result_key(spec, RESULT), result.model_dump_json().encode())
    return result


def _store(objects: ObjectStore, spec: AttemptSpec, files: Files) -> dict[str, str]:
    digests = {}
    if files.predictions is not None:
        objects.put_once(result_key(spec, PREDICTIONS), files.predictions)
        digests["predictions_digest"] = digest_of(files.predictions)
    if files.log:
        objects.put_once(result_key(spec, LOG), files.log)
        digests["log_digest"] = digest_of(files.log)
    return digests
