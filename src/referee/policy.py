"""What comes next for an evaluation, for a node, and for the whole dispatch: pure, a function of what happened only.

`TABLE` is the one place where it is decided: for each way in which an attempt can end, what is done the first
times, how many such endings there may be, what happens at the last one, and who pays for the attempt. The code
below reads the table, its tests check its laws for every sequence of endings, and `policy_document` prints it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from referee.challenge import SPOT
from referee.verdicts import Blame, Verdict, blame

QUARANTINE_AFTER = 2
BREAKER_WINDOW = 12
BREAKER_FAULTS = 6
BREAKER_EVALUATIONS = 3
BREAKER_NODES = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, with the facts that were recorded when it was planned.

    Attributes:
        evaluation: which evaluation it was an attempt of.
        verdict: how it ended.
        node: where it ran; None if it is not known.
        machine_type: the machine type that it was assigned to.
        is_reference: whether that is the reference type, on which limits are stated.
        wall_time_scale: the factor on the wall time limit that it was given.
        speed_ratio_upper: the upper 99% of this type's runtime over the reference's; None if not known.
        smoke: whether it was a smoke run, on a few files only.
    """

    evaluation: str
    verdict: Verdict
    node: str | None = None
    machine_type: str = "local"
    is_reference: bool = True
    wall_time_scale: float = 1.0
    speed_ratio_upper: float | None = None
    smoke: bool = False


class Ending(StrEnum):
    """The ways to end that are told apart here: what is counted together has one name."""

    VALID = "valid result"
    SUBMISSION = "the submission's fault"
    TIME_PROVEN = "time limit, proven"
    TIME_UNPROVEN = "time limit, not proven"
    HOST = "host fault"
    UNROUTABLE = "no machine fits"
    GPU_MEMORY = "GPU memory ran out"
    UNCLEAR = "cannot be told"
    DUPLICATE = "duplicate"
    CANCELLED = "cancelled"


class Demand(StrEnum):
    """What the next attempt's machine must be."""

    ANY = "any"
    REFERENCE = "reference"
    MORE_GPU_MEMORY = "more_gpu_memory"


class Payer(StrEnum):
    """Against whom an attempt that ended so is counted; money for machines is always the host's."""

    SUBMISSION = "the submission"
    HOST = "the host"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    Attributes:
        cap: how many endings counted under `group` an evaluation may have; at the last one `at_cap` happens.
        group: endings with the same group are counted together.
        demand: of the next attempt, before the cap is reached.
        elsewhere: the next attempt goes to another node, where there is one.
        final: at the cap the evaluation ends for good with this verdict; otherwise the operator may reopen it.
        pays: against whom the attempt is counted.
        reason: for the operator, why.
    """

    cap: int
    group: str
    demand: Demand
    elsewhere: bool
    final: bool
    pays: Payer
    reason: str


TABLE: Mapping[Ending, Rule] = MappingProxyType(
    {
        Ending.VALID: Rule(1, "valid", Demand.ANY, False, True, Payer.SUBMISSION, "The first valid result is final."),
        Ending.SUBMISSION: Rule(
            1, "submission", Demand.ANY, False, True, Payer.SUBMISSION, "The submission itself ended so."
        ),
        Ending.TIME_PROVEN: Rule(
            1,
            "submission",
            Demand.ANY,
            False,
            True,
            Payer.SUBMISSION,
            "The limit passed on the reference type, or beyond the upper 99% of the speed ratio on another.",
        ),
        Ending.TIME_UNPROVEN: Rule(
            2,
            "time unproven",
            Demand.REFERENCE,
            False,
            False,
            Payer.HOST,
            "On this machine type the limit may have been too short, so one run on the reference type decides.",
        ),
        Ending.HOST: Rule(
            3, "host", Demand.ANY, True, False, Payer.HOST, "The host failed; at most three attempts may end so."
        ),
        Ending.UNROUTABLE: Rule(
            1, "unroutable", Demand.ANY, False, False, Payer.NOBODY, "No machine fits; trying again changes nothing."
        ),
        Ending.GPU_MEMORY: Rule(
            2,
            "ambiguous",
            Demand.MORE_GPU_MEMORY,
            True,
            False,
            Payer.HOST,
            "It is said by the process and can be forged, so there is one escalation, then a person looks.",
        ),
        Ending.UNCLEAR: Rule(
            2, "ambiguous", Demand.ANY, True, False, Payer.HOST, "One more try elsewhere, then a person looks."
        ),
        Ending.DUPLICATE: Rule(
            3,
            "duplicate",
            Demand.ANY,
            False,
            False,
            Payer.NOBODY,
            "Nothing ran, so it counts for nothing; the cap is there only so that it cannot go on for ever.",
        ),
        Ending.CANCELLED: Rule(
            1, "cancelled", Demand.ANY, False, False, Payer.NOBODY, "The operator cancelled it, and decides what next."
        ),
    }
)

# No history is longer than this without a terminal action: each group's cap but one, and the ending that closes it.
MOST_ATTEMPTS = sum({rule.group: rule.cap - 1 for rule in TABLE.values()}.values()) + 1


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run the evaluation (once more): on such a machine, and not on these nodes if there are others.

    `smoke` asks for a smoke run, on a few files, before the full one.
    """

    demand: Demand = Demand.ANY
    avoid_nodes: frozenset[str] = frozenset()
    smoke: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The evaluation ends for good. `position` is that of the deciding attempt in the history, from 0."""

    verdict: Verdict
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class AskOperator:
    """Nothing more happens by itself: the evaluation ends with this verdict until the operator reopens it."""

    verdict: Verdict
    position: int
    reason: str


Action = Dispatch | Finish | AskOperator


def ending(outcome: Outcome) -> Ending:
    """Which row of the table an outcome belongs to."""
    if outcome.verdict is Verdict.TIME_LIMIT:
        return Ending.TIME_PROVEN if _time_is_proven(outcome) else Ending.TIME_UNPROVEN
    return _BY_VERDICT.get(outcome.verdict) or _BY_BLAME[blame(outcome.verdict)]


_BY_VERDICT = {
    Verdict.OK: Ending.VALID,
    Verdict.UNROUTABLE: Ending.UNROUTABLE,
    Verdict.GPU_OUT_OF_MEMORY: Ending.GPU_MEMORY,
    Verdict.DUPLICATE: Ending.DUPLICATE,
    Verdict.CANCELLED: Ending.CANCELLED,
}
_BY_BLAME = {Blame.SUBMISSION: Ending.SUBMISSION, Blame.HOST: Ending.HOST, Blame.AMBIGUOUS: Ending.UNCLEAR}


def _time_is_proven(outcome: Outcome) -> bool:
    # A mean-scaled limit would wrongly end 35 to 120 of 3,360 submissions that are slow only on this type.
    if outcome.is_reference:
        return outcome.wall_time_scale >= 1.0
    return outcome.speed_ratio_upper is not None and outcome.wall_time_scale >= outcome.speed_ratio_upper


def decide(history: Sequence[Outcome], *, smoke: bool = False, once: bool = False) -> Action:
    """What comes next for an evaluation.

    Args:
        history: its ended attempts since it was requested (or reopened), in order of their numbers.
        smoke: whether a smoke run must pass before the full run.
        once: run again only what the host failed: a probe measures, and what ends otherwise has told all that it can.

    Returns:
        `Dispatch`, or the terminal action at the first place in the history where there is one: what comes after
        it changes nothing, so a verdict or a score never changes silently.
    """
    counts: Counter[str] = Counter()
    demand, avoid, passed = Demand.ANY, frozenset[str](), False
    for position, outcome in enumerate(history):
        if outcome.smoke and outcome.verdict is Verdict.OK:
            passed = True
            continue
        rule = TABLE[ending(outcome)]
        counts[rule.group] += 1
        if once and rule.pays is not Payer.NOBODY and rule.group not in {"host", "valid"}:
            return AskOperator(outcome.verdict, position, _ONCE)
        if counts[rule.group] >= rule.cap:
            terminal = Finish if rule.final else AskOperator
            return terminal(outcome.verdict, position, _SMOKE * outcome.smoke + rule.reason)
        if rule.elsewhere and outcome.node is not None:
            avoid |= {outcome.node}
        demand = _stronger(demand, rule.demand)
    return Dispatch(demand, avoid, smoke and not passed)


def outgrown(history: Sequence[Outcome]) -> frozenset[str]:
    """The machine types on which an evaluation's GPU memory ran out, in a smoke run or a full one."""
    return frozenset(each.machine_type for each in history if each.verdict is Verdict.GPU_OUT_OF_MEMORY)


_ONCE = "It is a probe, which is run once."
_SMOKE = "In the smoke run, on a few files. "
_STRENGTH = {Demand.ANY: 0, Demand.MORE_GPU_MEMORY: 1, Demand.REFERENCE: 2}


def _stronger(old: Demand, new: Demand) -> Demand:
    # What an earlier attempt showed to be needed stays needed after a host fault. Where both a reference run and more
    # memory are wanted the reference decides: it alone can make a time-out final.
    return max(old, new, key=_STRENGTH.__getitem__)


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """What a node's outcomes say: host faults in a row now, and whether it is to be left out."""

    faults_in_a_row: int
    quarantine: bool


def node_health(outcomes: Sequence[Outcome]) -> dict[str, NodeHealth]:
    """Judge every node by the outcomes there, oldest first (since it was last released).

    Two host faults in a row quarantine a node, if they come from different evaluations: one evaluation that meets a
    host fault wherever it goes must not take the machines away from all others. Anything that shows the node working
    (a valid result, a fault of the submission) begins the count anew; what says nothing about it is passed over.
    A quarantine stays, whatever comes later, until the operator releases the node.
    """
    runs: dict[str, list[str]] = {}
    quarantined: set[str] = set()
    for outcome in outcomes:
        if outcome.node is None:
            continue
        run = runs.setdefault(outcome.node, [])
        match _node_signal(outcome):
            case True:
                run.append(outcome.evaluation)
                if len(run) >= QUARANTINE_AFTER and len(set(run)) >= QUARANTINE_AFTER:
                    quarantined.add(outcome.node)
            case False:
                run.clear()
            case None:
                pass
    return {node: NodeHealth(len(run), node in quarantined) for node, run in runs.items()}


def breaker(outcomes: Sequence[Outcome]) -> str | None:
    """Why dispatch must stop, or None.

    Args:
        outcomes: of the whole campaign, oldest first (since dispatch was last resumed).

    The rule: among the last 12 outcomes that say something about the hosts, at least 6 are host faults, they come from
    at least 3 evaluations, and from at least 2 nodes. Where no worker got as far as to name its node, each counts as
    another one: a worker that begins nowhere must not be tried with everybody. A single bad node is quarantined
    instead, and a single bad evaluation comes to its own end. No faults that spread are spot machines that are taken
    back (they were bought so), and jobs that were taken back before they began.
    """
    telling = [outcome for outcome in outcomes if _node_signal(outcome) is not None][-BREAKER_WINDOW:]
    faults = [outcome for outcome in telling if _node_signal(outcome)]
    evaluations = {outcome.evaluation for outcome in faults}
    nodes = {outcome.node or number for number, outcome in enumerate(faults)}
    if len(faults) < BREAKER_FAULTS or len(evaluations) < BREAKER_EVALUATIONS or len(nodes) < BREAKER_NODES:
        return None
    common, times = Counter(outcome.verdict for outcome in faults).most_common(1)[0]
    return (
        f"{len(faults)} of the last {len(telling)} attempts ended by a host fault, on {len(nodes)} nodes; "
        f"the most frequent is {common.value} ({times} times)."
    )


def _node_signal(outcome: Outcome) -> bool | None:
    """True: the host failed; False: it worked; None: says nothing about the host."""
    match ending(outcome):
        case Ending.HOST if outcome.verdict is Verdict.INTERRUPTED and (
            outcome.node is None or outcome.machine_type.endswith(SPOT)
        ):
            return None
        case Ending.HOST:
            return True
        case Ending.VALID | Ending.SUBMISSION | Ending.TIME_PROVEN | Ending.TIME_UNPROVEN:
            return False
        case _:
            return None
