"""`python -m referee.cloud.inside CHECK`: what a smoke test's job looks at on a real machine, and prints as JSON.

`metadata`: the worker reaches the machine's metadata, a process without a network does not. `gpu`: the job's GPUs are
named by UUID. `sleep`: does nothing until it is told to end, and says how long it was given to do so.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

from referee.engines.aws_batch_child import METADATA, Metadata

_NEW_NETWORK = 0x40000000  # unshare(2), CLONE_NEWNET


def main(check: str) -> int:
    """Look, print, and return 0 if it is as promised."""
    seen, good = {"metadata": _metadata, "gpu": _gpu, "sleep": _sleep}[check]()
    print(json.dumps({"check": check, "good": good, "seen": seen}), flush=True)
    return 0 if good else 1


def _metadata() -> tuple[object, bool]:
    address = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA
    worker = Metadata(address).instance()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK)
        os._exit(0 if Metadata(address).instance() is None else 1)
    unreachable = os.waitpid(child, 0)[1] == 0
    return {"worker_sees": worker, "without_network_unreachable": unreachable}, worker is not None and unreachable


def _gpu() -> tuple[object, bool]:
    named = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return {"named": named, "listed": listed}, named.startswith("GPU-") and named.partition(",")[0] in listed


def _sleep() -> tuple[object, bool]:
    told: list[float] = []
    signal.signal(signal.SIGTERM, lambda _number, _frame: told.append(time.monotonic()))
    deadline = time.monotonic() + 600
    while not told and time.monotonic() < deadline:
        time.sleep(0.2)
    print(json.dumps({"check": "sleep", "told_to_end": bool(told)}), flush=True)
    while told and time.monotonic() < told[0] + 300:  # how long it is left alone is read off the last line
        print(json.dumps({"seconds_since_sigterm": round(time.monotonic() - told[0])}), flush=True)
        time.sleep(5)
    return "It was never killed.", False


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
