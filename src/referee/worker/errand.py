"""A job's own process, the user's: it asks the node's warden for a worker, and reaches the object store for it.

`python -m referee.worker.errand --objects URL --wave NAME --index N --job NAME --node NAME` is all that a job runs. Its
manifest `waves/NAME/N.json` (see `referee.engines.waves`) says which attempt it is; nothing else tells one child of an
array from another.

Exit status: the worker's own (`referee.worker.main`), 69 if there is no worker to be had here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from referee.errors import HostError, RefereeError
from referee.objects import ObjectStore
from referee.worker.broker import serve

# Where a node's warden listens. Here, and not there, so that a job need not load all that a worker is made of.
SOCKET = Path("/run/referee/warden.sock")

NOT_TO_BE_HAD = 69  # sysexits.h, EX_UNAVAILABLE

_ANSWER_BYTES = 64 << 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the errand that the command line describes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m referee.worker.errand")
    parser.add_argument("--objects", default="")
    parser.add_argument("--wave", default="")
    parser.add_argument("--index", default=0, type=int)
    parser.add_argument("--job", default="")
    parser.add_argument("--node", default="")
    parser.add_argument("--probe", action="store_true", help="only ask whether the warden would serve this job")
    parser.add_argument("--socket", type=Path, default=SOCKET)
    given = parser.parse_args(arguments)
    try:
        if given.probe:
            print(_probe(given.socket))
            return 0
        objects = ObjectStore(given.objects)
        attempt = json.loads(objects.get(f"waves/{given.wave}/{given.index}.json"))["attempt"]
        return _run({"attempt": attempt, "job": given.job, "node": given.node}, objects, given.socket)
    except RefereeError as error:
        print(error, file=sys.stderr)
        return NOT_TO_BE_HAD


def _probe(place: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as warden:
        _connect(warden, place)
        warden.send(b"{}")
        answer = _answer(warden) or {"refused": "It ended."}
    if "ready" not in answer:
        raise HostError(f"The warden refused: {answer.get('refused')}")
    return str(answer["ready"])


def _connect(warden: socket.socket, place: Path) -> None:
    try:
        warden.connect(str(place))
    except OSError as error:
        raise HostError(
            f"No warden answers at {place} on this node: {error.strerror}.",
            hint="An administrator installs it: see docs/slurm.md.",
        ) from error


def _run(request: dict[str, object], objects: ObjectStore, place: Path) -> int:
    channel, workers_end = socket.socketpair()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as warden, channel:
        _connect(warden, place)
        signal.signal(signal.SIGTERM, lambda _number, _frame: _stop(warden))
        server = threading.Thread(target=serve, args=(channel, objects), daemon=True)
        server.start()
        with workers_end:
            socket.send_fds(warden, [json.dumps(request).encode()], [workers_end.fileno()])
        answer = _answer(warden)
        if answer is None:
            server.join()  # the warden is being replaced; its worker goes on for as long as it holds its end
            return 0
    if "refused" in answer:
        raise HostError(f"The warden refused: {answer['refused']}")
    if answer.get("words"):
        print(answer["words"], file=sys.stderr)
    return int(str(answer["ended"]))


def _answer(warden: socket.socket) -> dict[str, object] | None:
    with contextlib.suppress(OSError, ValueError):
        answer = json.loads(warden.recv(_ANSWER_BYTES))
        return answer if isinstance(answer, dict) else None
    return None


def _stop(warden: socket.socket) -> None:
    with contextlib.suppress(OSError):
        warden.send(b"stop")


if __name__ == "__main__":
    raise SystemExit(main())
