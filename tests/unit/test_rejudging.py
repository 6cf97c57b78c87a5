"""Rejudging: what is staged changes nothing, what is shown is what comes, and what is cancelled leaves no trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_histories import digest, ended, identity, imported, new_ledger, phase, planned, requested, small_campaign
from scoring_rows import attempt, evaluation

from referee.challenge import Challenge, MetricChoice, Phase
from referee.errors import LedgerError
from referee.ledger import (
    AttemptPlanned,
    ChallengeRecorded,
    EvaluationEnded,
    EvaluationRequested,
    EvaluationScored,
    Ledger,
    PhaseRecorded,
    RejudgingApplied,
    RejudgingCancelled,
    RejudgingStaged,
    ScoringFixed,
    SeriesStarted,
    queries,
)
from referee.scoring.boards import board_of
from referee.scoring.rejudging import Selection, Staged, board_digest, changes
from referee.verdicts import Verdict

OLD, NEW = digest(2), digest(3)  # labels
PHASE = "private_test"
CHALLENGE = Challenge(name="small", phases={PHASE: Phase(data=Path("data"), visibility="private")})
SCORED = st.floats(0, 2).map(lambda value: round(value, 2))
ENDINGS = st.sampled_from([Verdict.OK, Verdict.OK, Verdict.TIME_LIMIT, Verdict.NODE_LOST])


@dataclass(frozen=True)
class Result:
    verdict: Verdict
    score: float


RESULTS = st.builds(Result, ENDINGS, SCORED)


def scored(
    name: str, value: float, *, labels: str = OLD, epsilon: str = "1e-15", rejudging: str | None = None
) -> EvaluationScored:
    return EvaluationScored(
        evaluation=name,
        scores={"log_loss": repr(float(value))},
        predictions_digest=digest(7),
        labels_digest=labels,
        scorer_version="1",
        epsilon=epsilon,
        rejudging=rejudging,
    )


def campaign(ledger: Ledger, results: list[Result]) -> None:
    """Every submission runs once, ends so, and is scored if it can be."""
    numbers = range(1, len(results) + 1)
    ledger.append([phase(), *map(imported, numbers)], identities=[identity(number) for number in numbers])
    ledger.append([ScoringFixed(phase=PHASE, metric=MetricChoice(), labels_digest=OLD)])
    with ledger.lead(host="here") as lease:
        for number, result in zip(numbers, results, strict=True):
            name = f"s-{number}.{PHASE}"
            lease.append([requested(number), planned(name), ended(f"{name}.1", result.verdict)])
            lease.append([EvaluationEnded(evaluation=name, verdict=result.verdict, attempt=f"{name}.1")])
            if result.verdict is Verdict.OK:
                lease.append([scored(name, result.score)])


def stage(
    ledger: Ledger, method: str, submissions: list[int], *, labels: str = OLD, epsilon: float = 1e-15
) -> RejudgingStaged:
    event = RejudgingStaged.model_validate(
        {
            "rejudging": "rejudging-1",
            "phase": PHASE,
            "method": method,
            "submissions": tuple(f"s-{number}" for number in submissions),
            "selection": "all",
            "metric": MetricChoice(epsilon=epsilon),
            "labels_digest": labels,
            "before": board_digest(board_of(CHALLENGE, ledger, PHASE)),
        }
    )
    ledger.append([event])
    return event


def rerun(ledger: Ledger, event: RejudgingStaged, results: dict[int, Result]) -> None:
    """Make the further runs, as `Campaign` does."""
    series = event.rejudging
    ledger.append([SeriesStarted(series=series, purpose="rejudging", phase=PHASE, submissions=event.submissions)])
    with ledger.lead(host="here") as lease:
        for number, result in results.items():
            name = f"s-{number}.{PHASE}.{series}"
            fresh = EvaluationRequested(
                evaluation=name, submission=f"s-{number}", phase=PHASE, order=number, series=series
            )
            lease.append([fresh, planned(name), ended(f"{name}.1", result.verdict)])
            lease.append([EvaluationEnded(evaluation=name, verdict=result.verdict, attempt=f"{name}.1")])
            if result.verdict is Verdict.OK:
                lease.append([scored(name, result.score)])


def staged_rows(ledger: Ledger, event: RejudgingStaged) -> Staged:
    again = event.method == "rescore"
    runs = None if again else queries.evaluations(ledger, PHASE, event.rejudging)
    scores = (
        queries.scores(ledger, PHASE, rejudging=event.rejudging)
        if again
        else queries.scores(ledger, PHASE, series=event.rejudging)
    )
    return Staged(PHASE, frozenset(event.submissions), event.metric, runs, scores)


def applied(ledger: Ledger, event: RejudgingStaged) -> RejudgingApplied:
    after = board_digest(board_of(CHALLENGE, ledger, PHASE, staged_rows(ledger, event)))
    return RejudgingApplied(rejudging=event.rejudging, reason="a test", before=event.before, after=after)


@settings(max_examples=12)
@given(data=st.data(), first=st.lists(RESULTS, min_size=1, max_size=5))
def test_new_runs_give_what_was_shown_and_cancelling_leaves_the_board_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, first: list[Result]
) -> None:
    with new_ledger(tmp_path_factory.mktemp("rerun")) as ledger:
        campaign(ledger, first)
        before = board_of(CHALLENGE, ledger, PHASE).to_json()
        chosen = sorted(data.draw(st.sets(st.integers(1, len(first)), min_size=1)))
        event = stage(ledger, "rerun", chosen)
        rerun(ledger, event, {number: data.draw(RESULTS) for number in chosen})
        assert board_of(CHALLENGE, ledger, PHASE).to_json() == before
        shown = board_of(CHALLENGE, ledger, PHASE, staged_rows(ledger, event))
        if data.draw(st.booleans()):
            ledger.append([applied(ledger, event)])
            assert board_of(CHALLENGE, ledger, PHASE).to_json() == shown.to_json()
        else:
            ledger.append([RejudgingCancelled(rejudging=event.rejudging)])
            assert board_of(CHALLENGE, ledger, PHASE).to_json() == before
        ledger.verify()


@settings(max_examples=12)
@given(data=st.data(), first=st.lists(st.builds(Result, st.just(Verdict.OK), SCORED), min_size=1, max_size=5))
def test_new_scores_give_what_was_shown(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, first: list[Result]
) -> None:
    with new_ledger(tmp_path_factory.mktemp("rescore")) as ledger:
        campaign(ledger, first)
        before = board_of(CHALLENGE, ledger, PHASE)
        numbers = list(range(1, len(first) + 1))
        event = stage(ledger, "rescore", numbers, labels=NEW, epsilon=1e-7)
        for number in numbers:
            value = data.draw(SCORED)
            ledger.append(
                [scored(f"s-{number}.{PHASE}", value, labels=NEW, epsilon="1e-07", rejudging=event.rejudging)]
            )
        assert board_of(CHALLENGE, ledger, PHASE) == before
        shown = board_of(CHALLENGE, ledger, PHASE, staged_rows(ledger, event))
        ledger.append([applied(ledger, event)])
        after = board_of(CHALLENGE, ledger, PHASE)
        assert after == shown
        moved = {change.submission for change in changes(before, after)}
        assert moved == {
            new.submission
            for new in after.rows
            for old in before.rows
            if old.submission == new.submission and (old.score, old.rank) != (new.score, new.rank)
        }
        assert queries.phases(ledger)[PHASE].labels_digest == NEW
        assert queries.scoring(ledger, PHASE) == MetricChoice(epsilon=1e-7)
        ledger.verify()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = new_ledger(tmp_path)
    campaign(made, [Result(Verdict.OK, 0.3), Result(Verdict.OK, 0.2), Result(Verdict.TIME_LIMIT, 0)])
    return made


def test_scores_of_two_kinds_never_stand_on_one_board(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="epsilon"):
        ledger.append([scored(f"s-1.{PHASE}", 0.1, epsilon="1e-07").model_copy(update={"scores": {"brier": "0.1"}})])
    with pytest.raises(LedgerError, match="only a rejudging"):
        ledger.append([ScoringFixed(phase=PHASE, metric=MetricChoice(epsilon=1e-3), labels_digest=OLD)])
    with pytest.raises(LedgerError, match="labels"):
        ledger.append([PhaseRecorded(phase=PHASE, data_digest=digest(1), files=3, labels_digest=NEW)])
    event = stage(ledger, "rescore", [1], labels=NEW)
    ledger.append([scored(f"s-1.{PHASE}", 0.1, labels=NEW, rejudging=event.rejudging)])
    with pytest.raises(LedgerError, match="would keep a score under other labels"):
        ledger.append([applied(ledger, event)])


def test_an_older_ledger_stands_under_the_challenge_that_it_was_scored_by(tmp_path: Path) -> None:
    def recorded(epsilon: float) -> ChallengeRecorded:
        metric = MetricChoice(epsilon=epsilon)
        return ChallengeRecorded(
            digest=digest(9), content=CHALLENGE.model_copy(update={"metric": metric}).model_dump_json()
        )

    (tmp_path / "old").mkdir()
    with new_ledger(tmp_path / "old") as old:
        assert queries.scoring(old, PHASE) is None
        old.append([recorded(1e-7)])
        small_campaign(old)  # scores as they were written before epsilon was kept with them
        old.append([recorded(1e-3)])
        assert queries.scoring(old, PHASE) == MetricChoice(epsilon=1e-7)
        event = stage(old, "rescore", [1, 2], epsilon=1e-3)
        for number in (1, 2):
            old.append([scored(f"s-{number}.{PHASE}", 0.5, epsilon="0.001", rejudging=event.rejudging)])
        assert queries.scoring(old, PHASE) == MetricChoice(epsilon=1e-7)
        old.append([applied(old, event)])
        assert queries.scoring(old, PHASE) == MetricChoice(epsilon=1e-3)


def test_metrics_may_be_added_without_a_rejudging(ledger: Ledger) -> None:
    ledger.append([ScoringFixed(phase=PHASE, metric=MetricChoice(secondary=("brier",)), labels_digest=OLD)])
    assert board_of(CHALLENGE, ledger, PHASE).secondary == ("brier",)


def test_a_host_fault_in_a_new_run_harms_nobody(ledger: Ledger) -> None:
    before = board_of(CHALLENGE, ledger, PHASE).to_json()
    event = stage(ledger, "rerun", [1, 2])
    rerun(ledger, event, {1: Result(Verdict.NODE_LOST, 0), 2: Result(Verdict.OK, 0.2)})
    assert [run.submission for run in staged_rows(ledger, event).kept] == ["s-1"]
    assert board_of(CHALLENGE, ledger, PHASE, staged_rows(ledger, event)).to_json() == before
    ledger.append([applied(ledger, event)])
    assert board_of(CHALLENGE, ledger, PHASE).to_json() == before


def test_nothing_is_applied_before_every_run_has_ended_nor_twice(ledger: Ledger) -> None:
    event = stage(ledger, "rerun", [1, 2])
    with pytest.raises(LedgerError, match="another rejudging is staged"):
        ledger.append([event.model_copy(update={"rejudging": "rejudging-2"})])
    rerun(ledger, event, {1: Result(Verdict.OK, 0.1)})
    assert staged_rows(ledger, event).waiting == ("s-2",)
    with pytest.raises(LedgerError, match="has not ended"):
        ledger.append([applied(ledger, event)])
    ledger.append([RejudgingCancelled(rejudging=event.rejudging)])
    with pytest.raises(LedgerError, match="not staged"):
        ledger.append([applied(ledger, event)])
    with pytest.raises(LedgerError, match="no rejudging rejudging-1"):
        ledger.append([scored(f"s-1.{PHASE}", 0.1, rejudging=event.rejudging)])


def test_further_runs_are_seen_by_no_official_question(ledger: Ledger) -> None:
    questions = (
        lambda: queries.status(ledger, PHASE),
        lambda: queries.evaluations(ledger),
        lambda: queries.attempts(ledger, phase=PHASE),
        lambda: queries.scores(ledger),
        lambda: queries.histories(ledger, PHASE),
        lambda: queries.open_attempts(ledger, PHASE),
    )
    before = [question() for question in questions]
    event = stage(ledger, "rerun", [1, 3])
    rerun(ledger, event, {1: Result(Verdict.OK, 0.1)})
    with ledger.lead(host="here") as lease:
        name = f"s-3.{PHASE}.{event.rejudging}"
        lease.append(
            [
                EvaluationRequested(evaluation=name, submission="s-3", phase=PHASE, order=9, series=event.rejudging),
                AttemptPlanned.model_validate(planned(name).payload()),
            ]
        )
    assert [question() for question in questions] == before


def test_a_further_run_must_belong_to_a_series(ledger: Ledger) -> None:
    with ledger.lead(host="here") as lease, pytest.raises(LedgerError, match="no series"):
        lease.append(
            [EvaluationRequested(evaluation="x", submission="s-1", phase=PHASE, order=1, series="rejudging-1")]
        )


def test_a_selection_is_all_conditions_together() -> None:
    rows = [evaluation("s-1"), evaluation("s-2", Verdict.TIME_LIMIT), evaluation("s-3", None)]
    attempts = [attempt(rows[0], machine="g4dn"), attempt(rows[1], machine="p3")]

    def chosen(**conditions: frozenset[str]) -> list[str]:
        found = Selection(**conditions).chosen(rows, attempts)  # type: ignore[arg-type] # verdicts are strings too
        return [row.submission for row in found]

    assert chosen() == ["s-1", "s-2"]
    assert chosen(verdicts=frozenset({Verdict.TIME_LIMIT})) == ["s-2"]
    assert chosen(machine_types=frozenset({"g4dn"})) == ["s-1"]
    assert chosen(machine_types=frozenset({"g4dn"}), verdicts=frozenset({Verdict.TIME_LIMIT})) == []
    assert chosen(submissions=frozenset({"s-2", "s-3"})) == ["s-2"]
