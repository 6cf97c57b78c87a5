"""`python -m referee.engines.aws_batch_child FOLDER`: what a job of AWS Batch runs. It starts one worker.

It is the first process of the job's container, whose network is the machine's: the submission is the worker's child and
has none. The array's index says which manifest is this child's. While the worker runs, the machine's own metadata are
asked whether EC2 wants a spot machine back; then the worker is told to stop, which leaves it two minutes to publish
that it was interrupted. (Batch itself stops no job at that notice: draining ends services, not single tasks.)

A machine that has had two host faults in a row is switched off when its last job ends; with `REFEREE_ALONE` each is
after its one submission (`aws_batch_machine`).

Environment: `REFEREE_WAVE`, `REFEREE_OBJECTS`, `REFEREE_ALONE`, `REFEREE_NOTICE_SECONDS` (how often EC2 is asked; 5),
`REFEREE_POWER` (where the machine is switched off); of Batch `AWS_BATCH_JOB_ID`, `AWS_BATCH_JOB_ARRAY_INDEX`; of ECS
`NVIDIA_VISIBLE_DEVICES`, the job's GPUs by UUID.

Exit status: the worker's (`referee.worker.main`); 69 if no worker could be started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError

from referee.attempts import AttemptSpec, read_result
from referee.engines.aws_batch_machine import POWER, Machine
from referee.engines.waves import manifest_key, read_manifest
from referee.errors import HostError, RefereeError
from referee.objects import ObjectStore
from referee.sandbox import kernel
from referee.verdicts import Verdict
from referee.worker.main import ANOTHERS
from referee.worker.publishing import RESULT, result_key

NO_WORKER = 69  # sysexits.h, EX_UNAVAILABLE
METADATA = "http://169.254.169.254/"

_NOTICE_SECONDS = "5"  # AWS advises to look every five seconds
_ANSWER_SECONDS = 2.0
_LIFE_SECONDS = "21600"
_RESULT_LIMIT_BYTES = 1 << 20


class Metadata:
    """What the machine says of itself (IMDSv2).

    Args:
        address: where it answers; `AWS_EC2_METADATA_SERVICE_ENDPOINT`, as AWS's own programs know it, or the real one.
    """

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/") + "/latest/"
        self._token = ""

    def instance(self) -> str | None:
        """The machine's id; `None` if nobody answers."""
        return self._ask("meta-data/instance-id")

    def interruption(self) -> str | None:
        """EC2's notice that it takes the machine back; `None` while there is none."""
        return self._ask("meta-data/spot/instance-action")

    def _ask(self, what: str) -> str | None:
        with contextlib.suppress(URLError, OSError):
            if not self._token:
                fetch = urllib.request.Request(  # noqa: S310 - http to the link's own address, and no other
                    self._address + "api/token",
                    method="PUT",
                    headers={"X-aws-ec2-metadata-token-ttl-seconds": _LIFE_SECONDS},
                )
                self._token = _read(fetch)
            headers = {"X-aws-ec2-metadata-token": self._token}
            return _read(urllib.request.Request(self._address + what, headers=headers))  # noqa: S310 - as above
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the child that environment and command line describe; returns the exit status."""
    folder = Path((arguments if arguments is not None else sys.argv[1:])[0])
    try:
        metadata = Metadata(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA)
        words, spec = worker_words(os.environ, folder, metadata.instance() or socket.gethostname())
    except (RefereeError, KeyError, ValueError) as error:
        print(f"No worker was started: {error}", file=sys.stderr)
        return NO_WORKER
    machine = Machine(folder, Path(os.environ.get("REFEREE_POWER") or POWER))
    if machine.leaving:
        print(f"{spec.attempt}: nothing is begun on this machine any more. {machine.leaving}", file=sys.stderr)
        machine.leave()
        return NO_WORKER
    if os.environ.get("REFEREE_ALONE"):
        machine.will_leave(f"It was {spec.attempt}'s alone.")  # before it begins, so that no ending can forget it
    code, stopped = _watch(words, metadata, float(os.environ.get("REFEREE_NOTICE_SECONDS", _NOTICE_SECONDS)))
    if not stopped and code != ANOTHERS:
        machine.note(spec.evaluation, _verdict(spec, ObjectStore(os.environ["REFEREE_OBJECTS"])))
    if machine.leaving:
        print(f"This machine is switched off. {machine.leaving}", file=sys.stderr, flush=True)
        machine.leave()
    return code


def _verdict(spec: AttemptSpec, objects: ObjectStore) -> Verdict:
    """How the attempt ended, as the controller will read it."""
    try:
        data = objects.get(result_key(spec, RESULT), limit_bytes=_RESULT_LIMIT_BYTES)
        return read_result(data, spec.attempt).verdict
    except RefereeError:
        return Verdict.NODE_LOST


def worker_words(environment: Mapping[str, str], folder: Path, node: str) -> tuple[list[str], AttemptSpec]:
    """The worker's command line, and the attempt that it runs.

    Args:
        environment: of the job.
        folder: this machine's own folder, which outlives the job: unpacked images, data, proofs.
        node: this machine's name.

    Raises:
        HostError: if the job's GPUs are not named by UUID, or not as many as the attempt needs.
        ObjectStoreError: if the manifest cannot be read.
        KeyError: if the environment is not that of a job.
    """
    job, wave = environment["AWS_BATCH_JOB_ID"], environment["REFEREE_WAVE"]
    index = int(environment.get("AWS_BATCH_JOB_ARRAY_INDEX", "0"))
    objects = environment["REFEREE_OBJECTS"]
    spec = read_manifest(ObjectStore(objects), wave, index)
    gpus = _gpus(environment.get("NVIDIA_VISIBLE_DEVICES", "")) if spec.gpus else []
    if len(gpus) != spec.gpus:
        raise HostError(f"The job was given {len(gpus)} GPUs, {spec.gpus} are needed.", hint="Look at its definition.")
    words = [sys.executable, "-m", "referee.worker", f"specs/{spec.attempt}.json"]
    words += ["--objects", objects, "--node", str(folder), "--node-name", node, "--job", f"aws-batch/{job}"]
    words += ["--manifest", manifest_key(wave, index), "--travelled"]
    return words + [word for uuid in gpus for word in ("--gpu", uuid)], spec


def _gpus(named: str) -> list[str]:
    """The job's GPUs. An index means another one elsewhere, and `all` the neighbour's as well."""
    given = [name for name in named.split(",") if name and name not in {"void", "none"}]
    if any(not name.startswith("GPU-") for name in given):
        raise HostError(f"The job's GPUs are named {named!r}, not by UUID.", hint="Use the ECS image for GPUs.")
    return given


def _watch(words: Sequence[str], metadata: Metadata, look_seconds: float) -> tuple[int, bool]:
    """Run the worker; returns its exit status, and whether it was told to stop.

    Where the machine is being taken back already, the worker begins nothing, and says so in its result.
    """
    # Held back until there is a worker to hand it on to, which unblocks it for itself when it is ready for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    worker = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        preexec_fn=kernel.die_with_parent,  # noqa: PLW1509 - this process has started no thread that holds a lock
    )
    told = False

    def stop(*_: object) -> None:
        nonlocal told
        told = True
        worker.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while True:
        if not told and metadata.interruption() is not None:
            stop()
        try:
            code = worker.wait(look_seconds)
        except subprocess.TimeoutExpired:
            continue
        return (code if code >= 0 else 128 - code), told


def _read(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - built above
        return str(answer.read(4096).decode("ascii"))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
