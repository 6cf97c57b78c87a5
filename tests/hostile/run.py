"""Run the attacks: `python tests/hostile/run.py [NAME ...] [--level LEVEL] [--mutations | --without DEFENCE]`.

Without `--level` every level is run on which this machine can start a sandbox. It ends with one line for each level,
`N attacks, N held, 0 escaped`; with `--mutations`, where each defence is switched off in turn, with
`N defences, N noticed`. The exit status is 0 only if nothing escaped, or every defence was noticed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from arena import Arena  # noqa: E402 - found by the path above
from attacks import Attack, load_attacks  # noqa: E402 - found by the path above
from defences import DEFENCES  # noqa: E402 - found by the path above
from judge import Finding, run_attack  # noqa: E402 - found by the path above

from referee.errors import RefereeError  # noqa: E402 - found by the path above
from referee.sandbox import prove_host  # noqa: E402 - found by the path above

LEVELS = ("runc", "gvisor")
_TRIES = 3
Say = Callable[[str], None]


def why_not(arena: Arena, level: str) -> str:
    """Why this machine cannot run a level; empty if it can. The proof that workers want is made here, once."""
    try:
        prove_host(arena.node, level)
    except RefereeError as error:
        return f"{error.message} {error.hint or ''}".strip()
    return ""


def run_level(arena: Arena, attacks: list[Attack], level: str, say: Say) -> list[Finding]:
    """Run every attack that claims to be stopped at this level."""
    findings: list[Finding] = []
    claimed = [expected for attack in attacks if (expected := attack.at(level)) is not None]
    progress = Progress(len(claimed))
    for attack in claimed:
        finding = run_attack(arena, attack, level)
        findings.append(finding)
        word = "held" if not finding.problems else "ESCAPED"
        say(f"{level:6}  {progress.step()}  {word:8}{attack.name:44}{finding.seconds:6.2f} s  {finding.note}")
        for problem in finding.problems:
            say(f"          {problem}")
    return findings


class Progress:
    """How far a run has come, and how long the rest will take at the pace so far."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.monotonic()

    def step(self) -> str:
        """Such as ` 12/120, 1:30 left`."""
        self._done += 1
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        return f"{self._done:3}/{self._total}, {int(left) // 60}:{int(left) % 60:02} left"


def summary(findings: list[Finding], level: str) -> str:
    """The closing lines of a level."""
    attacks = [finding for finding in findings if not finding.attack.honest]
    honest = [finding for finding in findings if finding.attack.honest]
    escaped = sum(bool(finding.problems) for finding in attacks)
    ran = sum(not finding.problems for finding in honest)
    return (
        f"{level}: {len(honest)} honest images, {ran} ran\n"
        f"{level}: {len(attacks)} attacks, {len(attacks) - escaped} held, {escaped} escaped"
    )


def run_mutations(arena: Arena, attacks: list[Attack], level: str, names: list[str], say: Say) -> tuple[int, int]:
    """Switch each defence off in turn; returns how many there are, and how many were noticed by an attack."""
    noticed = 0
    progress = Progress(len(names))
    for name in names:
        concerned = [attack for attack in attacks if name in attack.defended_by and attack.at(level)]
        findings: list[Finding] = []
        for _ in range(_TRIES):  # on a busy machine neighbours may miss each other, and a bomb may find no processor
            for attack in concerned:
                findings.append(run_attack(arena, attack, level, DEFENCES[name]))
                arena.lay_out()
            if any(finding.noticed for finding in findings):
                break
        by = [finding.attack.name for finding in findings if finding.noticed]
        other = [finding.attack.name for finding in findings if not finding.noticed]
        noticed += bool(by)
        word = "noticed" if by else "UNSEEN"
        say(f"{progress.step()}  {word:8}without {name}: {', '.join(by) or 'nobody noticed'}")
        for finding in findings:
            if finding.problems:
                say(f"          {finding.attack.name}: {finding.problems[0][:160]}")
        if other:
            say(f"          did not notice: {', '.join(other)}")
    return len(names), noticed


def differences(attacks: list[Attack]) -> str:
    """Every attack that ends otherwise at `gvisor`, or is not claimed there, as a table for docs/security.md."""
    rows = ["| attack | at `gvisor` |", "|---|---|"]
    for attack in attacks:
        if attack.gvisor:
            word = "" if attack.gvisor.get("claimed", True) else "Not claimed. "
            rows.append(f"| `{attack.name}` | {word}{attack.gvisor['why']} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="run only attacks whose names hold one of these words")
    parser.add_argument("--level", choices=LEVELS, action="append", help="run at this level only")
    parser.add_argument("--mutations", action="store_true", help="switch each defence off in turn")
    parser.add_argument("--without", choices=sorted(DEFENCES), action="append", help="switch off only this defence")
    parser.add_argument("--differences", action="store_true", help="print what differs at gvisor, and run nothing")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    given = parser.parse_args()
    attacks = load_attacks(tuple(given.names))
    unknown = {name for attack in attacks for name in attack.defended_by} - set(DEFENCES)
    if unknown:
        parser.error(f"no such defences: {sorted(unknown)}")

    if given.differences:
        print(differences(attacks), end="")
        return 0

    def say(line: str) -> None:
        print(line, flush=True)

    arena = Arena()
    try:
        return _run(arena, attacks, given, say)
    finally:
        arena.close()


def _run(arena: Arena, attacks: list[Attack], given: argparse.Namespace, say: Say) -> int:
    closing, good, found = [], True, []
    for level in given.level or LEVELS:
        reason = why_not(arena, level)
        if reason:
            say(f"{level}: skipped: {reason}")
            good &= level != "runc" and not given.level
            continue
        began = time.monotonic()
        if given.mutations or given.without:
            if level != "runc":
                say(f"{level}: the defences are switched off at the level runc only")
                continue
            count, noticed = run_mutations(arena, attacks, level, given.without or list(DEFENCES), say)
            good &= count == noticed
            closing.append(f"{count} defences, {noticed} noticed")
        else:
            findings = run_level(arena, attacks, level, say)
            good &= not any(finding.problems for finding in findings)
            found += [{"level": level, "name": f.attack.name, "problems": f.problems} for f in findings]
            closing.append(summary(findings, level))
        say(f"{level}: {time.monotonic() - began:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(found), encoding="utf-8")
    for lines in closing:
        say(lines)
    return 0 if good and closing else 1


if __name__ == "__main__":
    sys.exit(main())
