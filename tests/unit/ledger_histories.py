"""Valid histories of campaigns for the ledger's tests: a small one by hand, and any number at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import strategies as st

from referee.attempts import Measurements
from referee.ledger import (
    AttemptEnded,
    AttemptFenced,
    AttemptPlanned,
    AttemptSubmitted,
    CampaignFinished,
    EvaluationEnded,
    EvaluationReopened,
    EvaluationRequested,
    EvaluationScored,
    Event,
    Identity,
    Ledger,
    NodeProved,
    NodeQuarantined,
    NodeRefused,
    NodeReleased,
    PhaseRecorded,
    SubmissionImported,
)
from referee.verdicts import Blame, Verdict, blame


def digest(number: int) -> str:
    """A digest that stands for thing `number`."""
    return f"sha256:{number:064x}"


DATA, LABELS = digest(1), digest(2)


def ticking() -> Callable[[], datetime]:
    """A clock that moves by a millisecond with every look at it."""
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def tick() -> datetime:
        nonlocal now
        now += timedelta(milliseconds=1)
        return now

    return tick


def new_ledger(place: Path | str) -> Ledger:
    """A fresh ledger in a folder, in a file that is not there yet, or at the address of a schema of PostgreSQL."""
    where = place / "ledger.sqlite" if isinstance(place, Path) and place.is_dir() else place
    return Ledger.create(where, campaign="c-1", challenge_name="faces", clock=ticking())


def phase(name: str = "private_test") -> PhaseRecorded:
    return PhaseRecorded(phase=name, data_digest=DATA, files=3, labels_digest=LABELS)


def identity(number: int) -> Identity:
    return Identity(f"s-{number}", f"t-{number // 2}", f"Submission {number}", f"Team {number // 2}", "salt")


def imported(number: int) -> SubmissionImported:
    who = identity(number)
    return SubmissionImported(
        submission=who.submission,
        team=who.team,
        submission_kind="gpu" if number % 3 == 0 else "cpu",
        image=digest(100 + number),
        identity_commitment=who.commitment,
        public_score=number / 7,
    )


def requested(number: int, name: str = "private_test") -> EvaluationRequested:
    return EvaluationRequested(evaluation=f"s-{number}.{name}", submission=f"s-{number}", phase=name, order=number)


def planned(evaluation: str, number: int = 1) -> AttemptPlanned:
    return AttemptPlanned(
        attempt=f"{evaluation}.{number}",
        evaluation=evaluation,
        number=number,
        machine_type="local",
        engine="memory",
        result_key=f"key-{evaluation}-{number}",
        level="runc",
    )


def ended(attempt: str, verdict: Verdict = Verdict.OK, node: str | None = "n-1") -> AttemptEnded:
    return AttemptEnded(
        attempt=attempt,
        verdict=verdict,
        node=node,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        ended_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
        measurements=Measurements(wall_seconds=0.1 + 0.2, cpu_seconds=1e-7, peak_memory_bytes=2**40),
        predictions_digest=digest(7) if verdict is Verdict.OK else None,
        reported_by="worker",
    )


def scored(evaluation: str, metric: str = "log_loss", value: float = 0.1 + 0.2) -> EvaluationScored:
    return EvaluationScored(
        evaluation=evaluation,
        scores={metric: repr(value)},
        predictions_digest=digest(7),
        labels_digest=LABELS,
        scorer_version="1",
    )


def small_campaign(ledger: Ledger, submissions: int = 2) -> None:
    """Every submission runs once and is scored."""
    numbers = range(1, submissions + 1)
    ledger.append([phase(), *map(imported, numbers)], identities=[identity(number) for number in numbers])
    with ledger.lead(host="here") as lease:
        for number in numbers:
            name = f"s-{number}.private_test"
            lease.append([requested(number), planned(name)])
            lease.append([AttemptSubmitted(attempt=f"{name}.1", handle="h")])
            lease.append([ended(f"{name}.1")])
            lease.append([EvaluationEnded(evaluation=name, verdict=Verdict.OK, attempt=f"{name}.1"), scored(name)])
        lease.append([CampaignFinished(phase="private_test")])


@dataclass
class Evaluation:
    """What the generator knows of an evaluation."""

    name: str
    phase: str
    attempts: int = 0
    open: bool = False
    last: Verdict | None = None
    verdict: Verdict | None = None
    metrics: int = 0


@dataclass
class World:
    """What the generator knows of the campaign, so that only valid moves are made."""

    submissions: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)


NODES = ("n-1", "n-2", None)
MOVES = ("import", "request", "plan", "submit", "end", "end", "fence", "finish", "finish", "score", "reopen", "node")


@st.composite
def segments(draw: st.DrawFn) -> list[list[Event]]:
    """What a sequence of controllers wrote, each under its own epoch."""
    world = World()
    return [
        [event for move in draw(st.lists(st.sampled_from(MOVES), max_size=25)) for event in _move(draw, world, move)]
        for _ in range(draw(st.integers(1, 3)))
    ]


def _move(draw: st.DrawFn, world: World, move: str) -> list[Event]:
    if move == "import":
        world.submissions += 1
        return [imported(world.submissions)]
    if move == "node":
        return [draw(st.sampled_from(_NODE_EVENTS))]
    if move == "request":
        return _request(draw, world)
    able = [evaluation for evaluation in world.evaluations if _ABLE[move](evaluation)]
    return _DO[move](draw, draw(st.sampled_from(able))) if able else []


_NODE_EVENTS: tuple[Event, ...] = (
    NodeProved(node="n-1", boot_id="b", level="runc", checks=3),
    NodeRefused(node="n-2", boot_id="b", level="runc", reason="no"),
    NodeQuarantined(node="n-1", reason="faults"),
    NodeReleased(node="n-1", reason="mended"),
)


def _request(draw: st.DrawFn, world: World) -> list[Event]:
    taken = {evaluation.name for evaluation in world.evaluations}
    free = [
        (number, name)
        for number in range(1, world.submissions + 1)
        for name in ("public_test", "private_test")
        if f"s-{number}.{name}" not in taken
    ]
    if not free:
        return []
    number, name = draw(st.sampled_from(free))
    world.evaluations.append(Evaluation(f"s-{number}.{name}", name))
    return [requested(number, name)]


def _plan(_draw: st.DrawFn, evaluation: Evaluation) -> list[Event]:
    evaluation.attempts += 1
    evaluation.open = True
    return [planned(evaluation.name, evaluation.attempts)]


def _submit(_draw: st.DrawFn, evaluation: Evaluation) -> list[Event]:
    return [AttemptSubmitted(attempt=f"{evaluation.name}.{evaluation.attempts}", handle="h")]


def _end(draw: st.DrawFn, evaluation: Evaluation) -> list[Event]:
    evaluation.open = False
    evaluation.last = draw(st.sampled_from(Verdict))
    return [ended(f"{evaluation.name}.{evaluation.attempts}", evaluation.last, draw(st.sampled_from(NODES)))]


def _fence(_draw: st.DrawFn, evaluation: Evaluation) -> list[Event]:
    return [AttemptFenced(attempt=f"{evaluation.name}.1", reason="late")]


def _finish(_draw: st.DrawFn, evaluation: Evaluation) -> list[Event]:
    evaluation.verdict = evaluation.last or Verdict.UNROUTABLE
    attempt = f"{evaluation.name}.{evaluation.attempts}" if evaluation.last else None
    return [EvaluationEnded(evaluation=evaluation.name, verdict=evaluation.verdict, attempt=attempt)]


def _score(_draw: st.DrawFn, evaluation: Evaluation) -> list[Event]:
    evaluation.metrics += 1
    return [scored(evaluation.name, f"metric_{evaluation.metrics}")]


def _reopen(_draw: st.DrawFn, evaluation: Evaluation) -> list[Event]:
    evaluation.verdict = evaluation.last = None
    return [EvaluationReopened(evaluation=evaluation.name, reason="the disk was mended")]


def _reopenable(evaluation: Evaluation) -> bool:
    verdict = evaluation.verdict
    return verdict is not None and verdict is not Verdict.OK and blame(verdict) is not Blame.SUBMISSION


_ABLE: dict[str, Callable[[Evaluation], bool]] = {
    "plan": lambda e: not e.open and e.verdict is None,
    "submit": lambda e: e.open,
    "end": lambda e: e.open,
    "fence": lambda e: e.attempts > 0,
    "finish": lambda e: not e.open and e.verdict is None,
    "score": lambda e: e.verdict is Verdict.OK,
    "reopen": _reopenable,
}
_DO: dict[str, Callable[[st.DrawFn, Evaluation], list[Event]]] = {
    "plan": _plan,
    "submit": _submit,
    "end": _end,
    "fence": _fence,
    "finish": _finish,
    "score": _score,
    "reopen": _reopen,
}
