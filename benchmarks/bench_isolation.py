"""What each isolation level costs: the same work run bare, at the level `runc` and at the level `gvisor`, in turns.

The work times itself, except the start, which is the time of a whole empty run (for a sandbox: set up, run, removed).
Ratios are medians over rounds of the ratio to the bare run of the same round, since the machine's speed drifts;
processor time of the whole run (gVisor's own processes too) stands beside, since it hardly depends on what else runs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

from isolation_work import READS, STATS

from referee.challenge import Contract, Limits
from referee.images.model import UnpackedImage
from referee.sandbox import Box, enclosed, sandbox_policy
from referee.sandbox.conformance import Suite

HERE = Path(__file__).resolve().parent
LIMITS = Limits(wall_time=timedelta(minutes=10), cpus=2.0, memory=2**30, pids=256)
WORK = {
    "start": "an empty program, from nothing to nothing",
    "processor": "6 million steps of a loop in Python",
    "reading": f"{READS} files of 100 KB each",
    "stats": f"{STATS} times stat(2) of one file",
    "video": "decoding videos to RGB with PyAV",
}
VIDEOS = 4


class Bench:
    """One folder with the data, the program and the packages; a run is one piece of work somewhere."""

    def __init__(self, folder: Path, media: list[Path]) -> None:
        self.data = folder / "data"
        self._layer = folder / "layer"
        self._run = folder / "run"
        for path in (self.data / "files", self.data / "video", self._layer / "bench", self._run):
            path.mkdir(parents=True)
        for number in range(READS):
            (self.data / "files" / str(number)).write_bytes(os.urandom(100_000))
        for path in media:
            shutil.copy(path, self.data / "video" / path.name)
        shutil.copy(HERE / "isolation_work.py", self._layer / "bench/work.py")
        for name in ("av", "numpy") if media else ():
            spec = find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            package = Path(spec.origin).parent
            for source in (package, package.with_name(f"{name}.libs")):
                if source.is_dir():
                    shutil.copytree(source, self._layer / "bench" / source.name)
        self._suite = Suite(folder / "suite")
        self._suite.prepare()

    def bare(self, work: str) -> list[float]:
        """The program as a process of this machine."""
        python = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
        program = self._layer / "bench/work.py"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run(
            [python, "-S", "-s", program, "nothing" if work == "start" else work, self.data],
            capture_output=True, text=True, check=True, env={"PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        took = time.perf_counter() - began if work == "start" else float(done.stdout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return [took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]

    def sandboxed(self, work: str, level: str) -> list[float]:
        """The same in a sandbox. To be called in an enclosure."""
        policy = sandbox_policy(Contract(), LIMITS, level=level)
        image = self._suite.image("/bench/work.py", "nothing" if work == "start" else work, "/data")
        image = UnpackedImage(image.record, (self._layer, *image.layers))
        folder = Path(tempfile.mkdtemp(dir=self._run))
        log = io.BytesIO()
        began = time.perf_counter()
        with Box(policy, image, self.data, None, folder) as box:
            outcome = box.run(log)
        took = time.perf_counter() - began
        if outcome.exit_status != 0:
            raise SystemExit(f"{work} at {level}: {outcome} {log.getvalue().decode()[-500:]}")
        return [took if work == "start" else float(log.getvalue()), outcome.cpu_seconds]


def rounds(bench: Bench, works: list[str], levels: list[str], count: int) -> dict[str, dict[str, list[list[float]]]]:
    """Seconds and processor seconds by work and place, one pair for each round."""
    seconds: dict[str, dict[str, list[list[float]]]] = {
        work: {place: [] for place in ("bare", *levels)} for work in works
    }
    for number in range(count + 1):  # the first one only warms the page cache
        for work in works:
            taken = {"bare": bench.bare(work), **{level: enclosed(_at(bench, work, level)) for level in levels}}
            for place, value in taken.items() if number else ():
                seconds[work][place].append(value)
    return seconds


def _at(bench: Bench, work: str, level: str) -> Callable[[], list[float]]:
    return lambda: bench.sandboxed(work, level)


def summary(seconds: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Median seconds, and the median of the ratios to the bare run of the same round."""
    bare = seconds["bare"]
    return {
        place: {
            "seconds": round(statistics.median(a[0] for a in taken), 4),
            "ratio": round(statistics.median(a[0] / b[0] for a, b in zip(taken, bare, strict=True)), 2),
            "processor_seconds": round(statistics.median(a[1] for a in taken), 4),
            "processor_ratio": round(statistics.median(a[1] / b[1] for a, b in zip(taken, bare, strict=True)), 2),
        }
        for place, taken in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, default=HERE / "results/isolation.json")
    given = parser.parse_args()
    levels = ["runc", *(["gvisor"] if shutil.which("runsc") else [])]
    media = sorted((HERE.parent / ".cache").glob("phases-*/**/*.mp4"))[:VIDEOS] if find_spec("av") else []
    works = [work for work in WORK if work != "video" or media]
    if not media:
        print("video: skipped, neither PyAV nor cached videos (`make demo` brings both)")
    with tempfile.TemporaryDirectory(prefix="isolation-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        measured = rounds(Bench(folder, media), works, levels, given.rounds)
    results = {work: {"what": WORK[work], **summary(measured[work])} for work in works}
    for work in works:
        parts = (f"{place} {results[work][place]['seconds']:.3f} s" for place in ("bare", *levels))  # type: ignore[index]
        ratios = ", ".join(
            f"{level} x{results[work][level]['ratio']} (processor time x{results[work][level]['processor_ratio']})"
            for level in levels
        )  # type: ignore[index]
        print(f"{work}: {', '.join(parts)}: {ratios}")
    facts = {
        "rounds": given.rounds, "processors": os.cpu_count(), "kernel": platform.release(),
        "load": os.getloadavg()[0], "levels": levels, "work": results,
    }  # fmt: skip
    given.write.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
