"""Writing a bundle at DFDC's size, and checking it (`make bench-bundle`).

4,200 submissions x 10,000 items: 1.6 GB of prediction files, some 30,000 events. The campaign is told to the ledger as
a controller tells it, without containers; predictions, scores, bundle and checks are the real ones, through the command
line. Each is held against what cannot be avoided, done by a few lines of Python in the same run: reading and hashing
the same bytes, and for `--labels` also reading every prediction file strictly and scoring it. Ratios are of processor
time, which other work on the machine disturbs less than the clock; a floor's time to start is not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from bench_scores import labels_of, names_of, predictions_of

from referee.challenge import PredictionFormat
from referee.digests import digest_of
from referee.ledger import (
    AttemptEnded,
    AttemptPlanned,
    AttemptSubmitted,
    EvaluationEnded,
    EvaluationRequested,
    Event,
    Identity,
    SubmissionImported,
)
from referee.predictions import read_predictions
from referee.scoring.metric import find_metric
from referee.verdicts import Verdict
from referee.workspace import Workspace

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "bundle.json"
REFEREE = Path(sys.executable).with_name("referee")
PHASE = "private_test"
LIMIT_BYTES = 2**26
_TOGETHER = 100
CHALLENGE = """
name = "bench-bundle"
[phases.private_test]
data = "data"
labels = "labels.csv"
visibility = "private"
[metric]
secondary = ["brier"]
"""


def csv_of(submission: int, items: int) -> bytes:
    """One submission's prediction file."""
    values = predictions_of(submission, items).tolist()
    rows = (f"{name},{value!r}\n" for name, value in zip(names_of(items), values, strict=True))
    return ("filename,label\n" + "".join(rows)).encode("ascii")


def store(task: tuple[Path, int, int]) -> str:
    """Put one submission's predictions where its worker would have; their digest."""
    folder, submission, items = task
    data = csv_of(submission, items)
    place = folder / "results" / key_of(submission)
    place.mkdir(parents=True)
    (place / "predictions.csv").write_bytes(data)
    return digest_of(data)


def key_of(submission: int) -> str:
    return f"key-{submission:06}"


def prepare(folder: Path, submissions: int, items: int) -> None:
    """A campaign that was run and scored."""
    (folder / "data").mkdir(parents=True)
    for name in names_of(items):
        (folder / "data" / name).write_bytes(name.encode())
    rows = "".join(f"{n},{int(v)}\n" for n, v in zip(names_of(items), labels_of(items), strict=True))
    (folder / "labels.csv").write_text("filename,label\n" + rows)
    (folder / "challenge.toml").write_text(CHALLENGE)
    workspace = Workspace.open(folder)
    objects = workspace.state / "objects"
    with ProcessPoolExecutor() as pool:
        digests = list(pool.map(store, ((objects, n, items) for n in range(submissions)), chunksize=20))
    with workspace.ledger_or_new() as ledger:
        ledger.append(workspace.record(PHASE)[1])
        for many in batched(range(submissions)):
            who = [Identity.new(f"s-{n:06}", f"t-{n // 2:06}", f"entry {n}", f"Team {n // 2}") for n in many]
            ledger.append(
                [
                    SubmissionImported(
                        submission=one.submission,
                        team=one.team,
                        submission_kind="cpu",
                        image=f"sha256:{n:064x}",
                        identity_commitment=one.commitment,
                    )
                    for n, one in zip(many, who, strict=True)
                ],
                identities=who,
            )
        with ledger.lead(host="a-host") as lease:
            for many in batched(range(submissions)):
                lease.append([event for n in many for event in run_of(n, digests[n], items)])
        scoring = workspace.score(ledger, PHASE)
        if len(scoring.events) != submissions:
            raise SystemExit(f"{len(scoring.events)} of {submissions} were scored")


def run_of(number: int, predictions: str, items: int) -> list[Event]:
    """A submission's run, as the controller records it."""
    evaluation = f"s-{number:06}.{PHASE}"
    attempt = f"{evaluation}.1"
    return [
        EvaluationRequested(evaluation=evaluation, submission=f"s-{number:06}", phase=PHASE, order=number),
        AttemptPlanned(
            attempt=attempt,
            evaluation=evaluation,
            number=1,
            machine_type="local",
            engine="local",
            result_key=key_of(number),
            level="runc",
        ),
        AttemptSubmitted(attempt=attempt, handle=f"local/{number}"),
        AttemptEnded(
            attempt=attempt,
            verdict=Verdict.OK,
            node="n-1",
            predictions_digest=predictions,
            predictions_rows=items,
            reported_by="worker",
        ),
        EvaluationEnded(evaluation=evaluation, verdict=Verdict.OK, attempt=attempt),
    ]


def batched(numbers: range) -> Iterator[list[int]]:
    rest = iter(numbers)
    while many := list(islice(rest, _TOGETHER)):
        yield many


# The floors


def hash_and_copy(folder: Path, target: Path) -> None:
    """What writing a bundle cannot avoid: every prediction file read, hashed and written to one file, once."""
    with target.open("wb") as file:
        for path in sorted((folder / ".referee" / "objects" / "results").glob("*/predictions.csv")):
            data = path.read_bytes()
            hashlib.sha256(data).hexdigest()
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def hash_only(bundle: Path) -> None:
    """What checking one cannot avoid: every byte read and hashed, once."""
    with bundle.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def hash_and_score(folder: Path, items: int) -> None:
    """What checking one with labels cannot avoid: every prediction file read, hashed, read strictly, and scored."""
    metrics = [find_metric("log_loss"), find_metric("brier")]
    names, labels, layout = names_of(items), labels_of(items), PredictionFormat()
    for path in sorted((folder / ".referee" / "objects" / "results").glob("*/predictions.csv")):
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        values = read_predictions(data, names, layout, limit_bytes=LIMIT_BYTES).values
        for metric in metrics:
            metric.score(labels, np.asarray(values)[None, :])


def measured(*command: str | Path) -> dict[str, float]:
    """Run a command; its seconds by the clock and of the processor, and the largest resident memory of a process."""
    began = time.perf_counter()
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return {
        "wall": round(time.perf_counter() - began, 2),
        "cpu": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gib": round(usage.ru_maxrss * 1024 / 2**30, 2),
    }


def floor(what: str, *words: str | Path) -> dict[str, float]:
    """A floor, in a process of its own as well, from when it has started."""
    command = [sys.executable, __file__, "--floor", what, *map(str, words)]
    found: dict[str, float] = json.loads(subprocess.check_output(command))
    return found


def print_floor(what: str, *words: str) -> None:
    """Run a floor in this process, and print what it took."""
    began, spent = time.perf_counter(), time.process_time()
    if what == "copy":
        hash_and_copy(Path(words[0]), Path(words[1]))
    elif what == "hash":
        hash_only(Path(words[0]))
    else:
        hash_and_score(Path(words[0]), int(words[1]))
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    sys.stdout.write(json.dumps({"wall": round(wall, 2), "cpu": round(cpu, 2), "peak_gib": round(peak, 2)}))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=4200)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="Where to work; by default a temporary folder.")
    parser.add_argument("--keep", action="store_true", help="Leave the folder, and use what is in it.")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--floor", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.floor:
        print_floor(*arguments.floor)
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bench-bundle-"))
    try:
        if not (folder / "challenge.toml").exists():
            prepare(folder, arguments.submissions, arguments.items)
        found = measure(folder, arguments.submissions, arguments.items)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    arguments.output.write_text(json.dumps(found, indent=2) + "\n")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def measure(folder: Path, submissions: int, items: int) -> dict[str, Any]:
    """Everything in turns, floor and command beside each other."""
    bundle, copy = folder / "a.bundle.tar", folder / "copy"
    runs = {
        "floor_of_bundle": floor("copy", folder, copy),
        "bundle": measured(REFEREE, "bundle", bundle, "--challenge", folder),
        "floor_of_verify": floor("hash", bundle),
        "verify": measured(REFEREE, "verify", bundle),
        "floor_of_verify_with_labels": floor("score", folder, str(items)),
        "verify_with_labels": measured(REFEREE, "verify", bundle, "--labels", folder / "labels.csv"),
    }
    copy.unlink()
    ratios = {name: round(runs[name]["cpu"] / runs[f"floor_of_{name}"]["cpu"], 2) for name in ("bundle", "verify")}
    labelled = runs["verify_with_labels"]["cpu"] / runs["floor_of_verify_with_labels"]["cpu"]
    return {
        "bundle_vs_hashing": ratios["bundle"],
        "verify_vs_hashing": ratios["verify"],
        "verify_with_labels_vs_reading_and_scoring": round(labelled, 2),
        "peak_gib": max(run["peak_gib"] for name, run in runs.items() if not name.startswith("floor")),
        "bundle_gb": round(bundle.stat().st_size / 1e9, 3),
        "submissions": submissions,
        "items": items,
        "seconds": runs,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
