"""Whether an attack held: from the verdict, and from what was seen outside the container."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from arena import Arena, Patch, Ran
from attacks import Attack, overhead

# Until the last process is dead; a loaded machine schedules late.
_LATE_SECONDS = 0.5
_NEIGHBOUR_RATIO = 2.5
_TRIES = 3
# A process that the kernel is killing may go some pages above the limit (cgroup-v1/memory.rst, try_charge_memcg).
_ABOVE_BYTES = 64 * 4096
_LATE = re.compile(r"wall_seconds is")
_BROKEN = re.compile(r"verdict (sandbox_failed|data_unavailable|image_unavailable|cannot_start)|runc run failed")


@dataclass
class Finding:
    """What became of one attack. `problems` is empty if it held."""

    attack: Attack
    level: str
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    @property
    def noticed(self) -> list[str]:
        """Problems that show an attack getting through, and not only that a sandbox could not be set up so.

        An image that the sandbox itself should have refused is refused by the runtime at last: that is noticed.
        """
        refused = "bad_image" in self.attack.verdicts
        return [problem for problem in self.problems if refused or not _BROKEN.search(problem)]


def run_attack(arena: Arena, attack: Attack, level: str, patch: Patch | None = None) -> Finding:
    """Run the attack under each of its contracts and judge it."""
    finding = Finding(attack, level)
    for contract in attack.contracts:
        for _ in range(_TRIES):
            problems = _run_once(arena, attack, contract, level, patch, finding)
            if not problems or not all(_LATE.match(problem) for problem in problems):
                break  # a busy machine is late once; a deadline that is not kept is late each time
        finding.problems += [f"{contract}: {problem}" for problem in problems]
    return finding


def _run_once(
    arena: Arena, attack: Attack, contract: str, level: str, patch: Patch | None, finding: Finding
) -> list[str]:
    if attack.mode == "import":
        return _import(arena, attack, patch)
    image = arena.image(attack)
    _unpacked(arena, attack, image, level)
    before, reached, packets = arena.snapshot(), arena.decoys.reached(), arena.decoys.packets()
    rans: list[Ran] = []
    if attack.mode == "neighbour":
        problems = _neighbour(arena, attack, contract, level, image, patch, rans, finding)
    else:
        first = arena.start(arena.spec(attack, contract, "attack", level, image), patch)
        if attack.mode == "beside":
            arena.wait_ready(first)
            second = arena.start(arena.spec(attack, contract, "next", level, image), patch)
            rans += [arena.finish(second), arena.finish(first)]
        else:
            rans.append(arena.finish(first))
            if attack.mode == "then":
                rans.append(arena.finish(arena.start(arena.spec(attack, contract, "next", level, image), patch)))
        problems = []
    finding.seconds += sum(ran.seconds for ran in rans)
    for ran in rans:
        problems += judge(arena, attack, ran)
    problems += _outside(arena, before, reached, packets)
    return problems


def _unpacked(arena: Arena, attack: Attack, image: str, level: str) -> None:
    """The node's cache must be warm before the snapshot: what the first run unpacks is no trace of an attack."""
    known = arena.node / "warm"
    known.mkdir(exist_ok=True)
    mark = known / image.replace(":", "-")
    if not mark.exists():
        mark.touch()
        quiet = arena.spec(attack, "strict", "nothing", level, image)
        arena.finish(arena.start(quiet))


def _outside(arena: Arena, before: dict[str, object], reached: int, packets: int) -> list[str]:
    problems = []
    if arena.decoys.reached() != reached:
        problems.append(f"{arena.decoys.reached() - reached} connections or datagrams reached a decoy")
    if arena.decoys.packets() != packets:
        problems.append(f"{arena.decoys.packets() - packets} packets left for the other network namespace")
    after = arena.snapshot()
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        problems.append(f"changed on the host: {changed[:3]}")
    return problems


def judge(arena: Arena, attack: Attack, ran: Ran) -> list[str]:
    """What is wrong with one run of an attack."""
    result = ran.result
    if result is None:
        return [f"no result was published: {ran.errors[-300:]}", *(f"left behind: {thing}" for thing in ran.left)]
    problems = [f"left behind: {thing}" for thing in ran.left] + list(ran.seen)
    role = ran.spec.contract.environment["ROLE"]
    log, allowed = ran.log, ran.spec.limits
    if role == "attack":
        problems += _told(attack, ran)
    elif result.verdict not in {*attack.verdicts, "no_predictions"}:
        problems.append(f"{role}: verdict {result.verdict}: {result.detail[:200]}")
    never = "|".join(["ESCAPED", arena.canary, ran.spec.result_key, arena.folder.name, *filter(None, [attack.never])])
    found = re.search(never, log)
    if found:
        problems.append(f"{role} wrote: {log[found.start() : found.start() + 120]!r}")
    told = result.signature + result.detail
    if any(not character.isprintable() and character != "\n" for character in told):
        problems.append("control characters in what is told of it")
    if {"result.json", "predictions.csv", "log.txt"} < set(ran.stored):
        problems.append(f"published besides: {ran.stored}")
    if len(log.encode(errors="replace")) > allowed.log * 3:  # a byte that is no text is shown as three
        problems.append(f"{len(log)} characters of log kept")
    return problems + _measured(attack if role == "attack" else None, ran)


def _told(attack: Attack, ran: Ran) -> list[str]:
    result, problems = ran.result, []
    assert result is not None
    if result.verdict not in attack.verdicts:
        words = f"{result.detail[:200]} | log: {ran.log[-300:]!r}"
        problems.append(f"verdict {result.verdict} instead of {' or '.join(attack.verdicts)}: {words}")
    if attack.signature and not re.search(attack.signature, result.signature):
        problems.append(f"the participant is told {result.signature!r}")
    if attack.said and not re.search(attack.said, ran.log):
        problems.append(f"it was not tried, or not as it should be; log: {ran.log[-300:]!r}")
    return problems


def _measured(attack: Attack | None, ran: Ran) -> list[str]:
    assert ran.result is not None
    seen, limits = ran.result.measurements, ran.spec.limits
    if seen is None:
        return []
    memory = limits.memory + overhead(ran.spec.level).memory_bytes + _ABOVE_BYTES
    most: dict[str, float] = {
        "peak_memory_bytes": memory, "pids_peak": limits.pids, "output_bytes": limits.output,
        "output_files": limits.output_files, "wall_seconds": limits.wall_time.total_seconds() + _LATE_SECONDS,
        "cpu_seconds": 0.3 + 1.5 * limits.cpus * seen.wall_seconds, **(attack.at_most if attack else {}),
    }  # fmt: skip
    facts = seen.model_dump()
    problems = [f"{key} is {facts[key]}, above {top}" for key, top in most.items() if (facts[key] or 0) > top]
    least = attack.at_least if attack else {}
    return problems + [f"{key} is {facts[key]}, below {low}" for key, low in least.items() if (facts[key] or 0) < low]


def _neighbour(
    arena: Arena, attack: Attack, contract: str, level: str, image: str, patch: Patch | None, rans: list[Ran],
    finding: Finding,
) -> list[str]:  # fmt: skip
    """A victim's fixed amount of work, alone and beside the attacker, by the wall time that the host measured."""
    ratio = 0.0
    for _ in range(_TRIES):  # the machine's own load falls on one of the two now and then
        alone = arena.finish(arena.start(arena.spec(attack, contract, "victim", level, image), patch))
        attacker = arena.start(arena.spec(attack, contract, "attack", level, image), patch)
        arena.wait_ready(attacker)
        beside = arena.finish(arena.start(arena.spec(attack, contract, "victim", level, image), patch))
        rans[:] = [alone, beside, arena.finish(attacker)]
        times = [
            ran.result.measurements.wall_seconds for ran in (alone, beside) if ran.result and ran.result.measurements
        ]
        if len(times) < 2:
            return ["the neighbour was not measured"]
        ratio = times[1] / times[0]
        finding.note = f"neighbour's time x {ratio:.2f}"
        if ratio <= _NEIGHBOUR_RATIO:
            return []
    return [f"the neighbour took {ratio:.1f} times as long"]


def _import(arena: Arena, attack: Attack, patch: Patch | None) -> list[str]:
    refusal, facts = arena.import_recipe(attack, patch)
    problems = []
    if attack.refused and not re.search(attack.refused, refusal):
        problems.append(f"the importer said {refusal!r}")
    if not attack.refused and refusal:
        problems.append(f"refused: {refusal}")
    return problems + [f"{key}: {value}" for key, value in facts.items() if value]
