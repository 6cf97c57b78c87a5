"""`python -m referee.worker SPEC_KEY --objects URL --node FOLDER --job NAME`: one attempt, from claim to result.

Exit status: 0 the result is published (whatever its verdict), 3 the attempt is another worker's, 5 there is a result
but it could not be published, 2 wrong arguments, 70 the worker failed. The object store says more than any of them.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from referee.attempts import AttemptSpec
from referee.boot import boot_id
from referee.errors import ConfigurationError, ConflictError, ObjectStoreError, RefereeError
from referee.objects import ObjectStore
from referee.verdicts import Verdict
from referee.worker.broker import brokered
from referee.worker.leftovers import clear
from referee.worker.lock import Holder, start_ticks, take_lock, write_holder
from referee.worker.run import Place, run_attempt
from referee.worker.stopping import Stopping
from referee.worker.supervise import hold_back_sigterm, supervise

PUBLISHED, ANOTHERS, UNPUBLISHED = 0, 3, 5

_SPEC_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is started with.

    Attributes:
        spec_key: key of the attempt's specification in the object store.
        objects: where the object store is.
        node_folder: this node's own folder.
        place: what of the machine the worker was given.
        memory_bytes: memory that is set aside for it, for the record.
        channel: descriptor of a socket to the process that reaches the object store in its place (`broker`).
        manifest: where else the specification lies, for a worker that may read only what its job was told the key of.
    """

    spec_key: str
    objects: str
    node_folder: Path
    place: Place
    memory_bytes: int = 0
    channel: int | None = None
    manifest: str | None = None

    @property
    def attempt(self) -> str:
        """The attempt's name."""
        return PurePosixPath(self.spec_key).stem


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker that the command line describes; returns its exit status."""
    order = _parse(arguments)
    hold_back_sigterm()
    try:
        lock = take_lock(order.node_folder, order.attempt)
    except ConflictError as error:
        print(error, file=sys.stderr)
        return ANOTHERS
    except RefereeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    write_holder(lock, holder(order, os.getpid()))
    return run_worker(order)


def run_worker(order: Order) -> int:
    """Run the attempt whose lock this process holds, in namespaces of its own; returns the exit status.

    Call it in a process with one thread that does nothing else.
    """
    return supervise(lambda: _attempt(order), lambda: clear(order.node_folder, order.attempt))


def holder(order: Order, pid: int) -> Holder:
    """What the lock of a worker says of it, whose outer process is `pid`."""
    return Holder(
        pid=pid,
        started_ticks=start_ticks(pid) or 0,
        boot_id=boot_id(),
        job=order.place.job,
        cpus=order.place.cpus,
        gpus=order.place.gpus,
        memory_bytes=order.memory_bytes,
    )


def _attempt(order: Order) -> int:
    stopping = Stopping()
    stopping.listen()
    try:
        objects = _objects(order)
        key = order.manifest or order.spec_key
        spec = AttemptSpec.model_validate_json(objects.get(key, limit_bytes=_SPEC_LIMIT_BYTES))
        if spec.attempt != order.attempt:
            raise ConfigurationError(
                f"The specification {key} is that of {spec.attempt}.", hint="Its key must bear its name."
            )
        result = run_attempt(spec, objects, order.node_folder, order.place, stopping)
    except ObjectStoreError as error:
        print(f"{order.attempt}: {error}", file=sys.stderr)
        return UNPUBLISHED
    except RefereeError as error:
        print(f"{order.attempt}: {error}", file=sys.stderr)
        return error.exit_code
    return ANOTHERS if result.verdict is Verdict.DUPLICATE else PUBLISHED


def _objects(order: Order) -> ObjectStore:
    return ObjectStore(order.objects) if order.channel is None else brokered(socket.socket(fileno=order.channel))


def _parse(arguments: Sequence[str] | None) -> Order:
    parser = argparse.ArgumentParser(prog="python -m referee.worker", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "spec_key", help="key of the attempt's specification, such as specs/s-4f21c9.private_test.1.json"
    )
    parser.add_argument("--objects", required=True, help="the object store: a folder or a URL")
    parser.add_argument("--node", required=True, type=Path, help="this node's own folder, on a local file system")
    parser.add_argument("--job", required=True, help="the engine's name for this job, recorded in the claim")
    parser.add_argument("--cpus", default="", help="processors to keep to, such as 0,1")
    parser.add_argument("--gpu", action="append", default=[], help="UUID of a GPU to give to the sandbox")
    parser.add_argument("--cache-bytes", type=int, default=None, help="the most that unpacked images may take")
    parser.add_argument("--node-name", default=None, help="what this machine is called in claims and results")
    parser.add_argument("--manifest", default=None, help="another key under which the specification lies")
    parser.add_argument(
        "--travelled", action="store_true", help="take images and data from the object store, not from this machine"
    )
    given = parser.parse_args(arguments)
    place = Place(
        node=given.node_name or socket.gethostname(),
        job=given.job,
        cpus=tuple(int(cpu) for cpu in given.cpus.split(",") if cpu),
        gpus=tuple(given.gpu),
        cache_bytes=given.cache_bytes,
        travelled=given.travelled,
    )
    return Order(given.spec_key, given.objects, given.node.absolute(), place, manifest=given.manifest)
