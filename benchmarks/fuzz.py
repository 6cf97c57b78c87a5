"""Fuzz every reader of what strangers write, guided by coverage: `python benchmarks/fuzz.py` (`make bench-fuzz`).

Each target is a process of its own under atheris (libFuzzer for Python), which is installed beside the project, not in
it (`requirements/fuzz.txt`). An input must end in a verdict: accepted, or one of the declared errors, in plain words.
Anything else is a failure and is kept in `.cache/fuzz/failures`: another exception, an answer that breaks the reader's
own promise, more than 5 s, or more than 512 MiB.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "fuzz"
PACKAGES, FAILURES = CACHE / "packages", CACHE / "failures"
RESULTS = HERE / "results" / "fuzz.json"
RUNS = {
    "predictions": 500_000, "submissions": 400_000, "image_json": 300_000, "tar": 300_000, "layer": 250_000,
    "result": 250_000,
}  # fmt: skip
TIMEOUT_SECONDS, MEMORY_MIB = 5, 512
_STATE = struct.Struct("QQQd")  # inputs, accepted, refused, slowest in seconds


def fuzz(name: str, state: Path, arguments: list[str]) -> None:
    """Run one target in this process, which libFuzzer ends."""
    sys.path[:0] = [str(PACKAGES), str(HERE), str(HERE.parent / "tests")]
    import atheris  # noqa: PLC0415 - only where it is installed

    with atheris.instrument_imports(include=["referee"]):
        import fuzz_targets  # noqa: PLC0415 - instrumented as it is loaded

    target = fuzz_targets.TARGETS[name]
    with state.open("r+b") as file:
        kept = mmap.mmap(file.fileno(), _STATE.size)
    counts, slowest = [0, 0, 0], 0.0

    def one(data: bytes) -> None:
        nonlocal slowest
        began = time.perf_counter()
        accepted = fuzz_targets.verdict(target, data)
        slowest = max(slowest, time.perf_counter() - began)
        counts[0] += 1
        counts[1 if accepted else 2] += 1
        _STATE.pack_into(kept, 0, *counts, slowest)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def run(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Run a target in a process of its own; returns what became of it."""
    folder = CACHE / name
    seeds = folder / "seeds"
    shutil.rmtree(folder, ignore_errors=True)
    seeds.mkdir(parents=True, exist_ok=True)
    FAILURES.mkdir(parents=True, exist_ok=True)
    code = f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent / 'tests')!r}]; import fuzz_targets as t; "
    code += f"t.write_seeds({name!r}, {str(seeds)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    state = folder / "state"
    state.write_bytes(bytes(_STATE.size))
    command = [
        *(sys.executable, __file__, "--target", name, "--state", str(state), "--"),
        *(f"-runs={inputs}", f"-seed={seed}", f"-timeout={TIMEOUT_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}"),
        *("-max_len=6000", "-len_control=20", "-print_final_stats=1", f"-artifact_prefix={FAILURES}/{name}-"),
        *("-use_value_profile=0", "-close_fd_mask=0", str(seeds)),
    ]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    (folder / "log").write_text(done.stdout + done.stderr, encoding="utf-8")
    tried, accepted, refused, slowest = _STATE.unpack(state.read_bytes())
    said = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    covered = re.findall(r"\bcov: (\d+) ft: (\d+)", done.stderr)
    return {
        "inputs": tried, "accepted": accepted, "refused": refused, "failed": done.returncode != 0,
        "slowest_input_seconds": round(slowest, 3), "peak_rss_mib": int(said.get("peak_rss_mb", 0)),
        "edges_covered": int(covered[-1][0]) if covered else 0, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"run only these of {', '.join(RUNS)}; without any, write the results")
    parser.add_argument("--share", type=float, default=1.0, help="this share of the inputs")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.target:
        fuzz(given.target, given.state, given.names)
        return 1  # libFuzzer does not return
    sys.path.insert(0, str(PACKAGES))
    try:
        atheris = version("atheris")
    except PackageNotFoundError:
        print("atheris is not installed: type `make bench-fuzz`.", file=sys.stderr)
        return 1
    found = {}
    for name in given.names or RUNS:
        print(f"{name}: {int(RUNS[name] * given.share)} inputs", flush=True)
        found[name] = run(name, int(RUNS[name] * given.share), given.seed)
        print(f"{name}: {found[name]}", flush=True)
        if found[name]["failed"]:
            print((CACHE / name / "log").read_text(encoding="utf-8")[-3000:], flush=True)
    total = sum(each["inputs"] for each in found.values())
    failed = sum(each["failed"] for each in found.values())
    if not given.names and given.share == 1.0:
        facts = {
            "atheris": atheris, "python": platform.python_version(), "seed": given.seed, "inputs": total,
            "failed_targets": failed, "timeout_seconds": TIMEOUT_SECONDS, "memory_limit_mib": MEMORY_MIB,
            "nice": os.nice(0), "targets": found,
        }  # fmt: skip
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{total} inputs, {failed} of {len(found)} targets failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
