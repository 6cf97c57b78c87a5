"""Campaigns while everything breaks, on every engine: was an evaluation lost, duplicated or billed wrongly?

`python benchmarks/chaos.py --faults 200`. On each engine campaigns are run from the same imported state, with faults at
random moments, and judged from outside (`faults.judgement`) against an undisturbed one. What the engines are: `memory`
simulated, with a real ledger and object store; `local` real containers; `slurm` a real cluster of four nodes on this
machine; `aws-batch` the real engine and workers on a STAND-IN for the service.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT / "examples" / "deepfake")]

from faults.judgement import Breach  # noqa: E402 - found by the line above
from faults.storm import Arena, Report, storm  # noqa: E402 - the same

RESULTS = ROOT / "benchmarks" / "results" / "chaos.json"
_MOST_BROKEN = 3  # campaigns in a row in which no fault struck: then something is wrong with the proof itself
# Each engine's arena, imported when it is needed, and the share of all faults that it gets: the quick ones more.
ARENAS = {"memory": ("virtual", 4), "local": ("machine", 2), "aws-batch": ("cloud", 2), "slurm": ("cluster", 2)}


def run_arena(name: str, folder: Path, faults: int, seed: int, only: int | None) -> Iterator[Report]:
    """Campaigns on one engine, until at least so many faults have struck."""
    struck = broken = number = 0
    opened: AbstractContextManager[Arena] = import_module(f"faults.{ARENAS[name][0]}").arena(folder / name)
    with opened as arena:
        while struck < faults and broken < _MOST_BROKEN:
            began = time.monotonic()
            report = storm(arena, number if only is None else only, seed)
            struck += report.struck.total()
            broken = 0 if report.struck else broken + 1
            number += 1
            words = "; ".join(wrong.what for wrong in report.wrongs) or "nothing wrong"
            kinds = ", ".join(f"{kind} ({times})" for kind, times in sorted(report.struck.items())) or "no fault"
            say(f"{name} campaign {report.number}, {time.monotonic() - began:.0f} s: {kinds}: {words}")
            yield report
            if only is not None:
                return


def say(words: str) -> None:
    """Where progress goes."""
    print(words, file=sys.stderr, flush=True)


def facts_of(reports: Sequence[Report], seed: int, seconds: float) -> dict[str, Any]:
    """The result file."""
    kinds: dict[str, dict[str, int]] = {}
    for report in reports:
        for kind, times in report.struck.items():
            on = kinds.setdefault(kind, {})
            on[report.arena] = on.get(report.arena, 0) + times
    return {
        "seed": seed,
        "seconds": round(seconds),
        "campaigns": dict(sorted(Counter(report.arena for report in reports).items())),
        "faults": dict(sorted(kinds.items())),
        "wrong": [
            {"engine": report.arena, "campaign": report.number, "breach": str(wrong.breach), "what": wrong.what}
            for report in reports
            for wrong in report.wrongs
        ],
    }


def closing_line(facts: dict[str, Any]) -> str:
    """The proof in one line."""
    faults = sum(times for on in facts["faults"].values() for times in on.values())
    counts = Counter(wrong["breach"] for wrong in facts["wrong"])
    breaches = ", ".join(f"{counts[each]} {each}" for each in (Breach.LOST, Breach.DUPLICATED, Breach.MISBILLED))
    return f"{faults} faults of {len(facts['faults'])} kinds, {breaches}"


def main() -> int:
    """Run it; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--engines", default=",".join(ARENAS), help=f"of {', '.join(ARENAS)}")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--campaign", type=int, help="only the campaign with this number, on each engine")
    parser.add_argument("--json", action="store_true", help="print the result file instead of the last line")
    parser.add_argument("--keep", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args()
    names = given.engines.split(",")
    say(f"seed {given.seed}")
    began = time.monotonic()
    reports: list[Report] = []
    whole = sum(ARENAS[name][1] for name in names)
    with tempfile.TemporaryDirectory(prefix="referee-chaos-") as folder:
        for name in names:
            wanted = math.ceil(given.faults * ARENAS[name][1] / whole)
            for report in run_arena(name, Path(folder), wanted, given.seed, given.campaign):
                reports.append(report)
                if given.keep:  # what is known so far: the whole may take long
                    facts = facts_of(reports, given.seed, time.monotonic() - began)
                    RESULTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    facts = facts_of(reports, given.seed, time.monotonic() - began)
    for wrong in facts["wrong"][:1]:
        say(f"{wrong['breach']}, on {wrong['engine']}: {wrong['what']}")
        say(
            f"Again: benchmarks/chaos.py --engines {wrong['engine']} --seed {given.seed} --campaign {wrong['campaign']}"
        )
    print(json.dumps(facts, indent=2) if given.json else closing_line(facts))
    return 1 if facts["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
