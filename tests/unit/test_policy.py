"""The laws of the policy, for every history that Hypothesis can think of, and the cases that the design names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from referee import policy
from referee.policy import (
    MOST_ATTEMPTS,
    TABLE,
    AskOperator,
    Demand,
    Dispatch,
    Ending,
    Finish,
    Outcome,
    Payer,
    breaker,
    decide,
    ending,
    node_health,
)
from referee.policy_document import document
from referee.verdicts import Blame, Verdict, blame

OUTCOMES = st.builds(
    Outcome,
    evaluation=st.sampled_from(["a", "b", "c", "d"]),
    verdict=st.sampled_from(Verdict),
    node=st.sampled_from(["n-1", "n-2", "n-3", None]),
    machine_type=st.sampled_from(["t4", "v100"]),
    is_reference=st.booleans(),
    wall_time_scale=st.sampled_from([0.5, 1.0, 2.1, 4.0]),
    speed_ratio_upper=st.sampled_from([None, 2.1, 3.5]),
)
HISTORIES = st.lists(OUTCOMES, max_size=12)


def run(*verdicts: Verdict, node: str | None = None, is_reference: bool = True) -> list[Outcome]:
    return [
        Outcome("e", verdict, node or f"n-{number}", is_reference=is_reference)
        for number, verdict in enumerate(verdicts)
    ]


# The laws


@given(st.lists(OUTCOMES, min_size=MOST_ATTEMPTS, max_size=MOST_ATTEMPTS + 5))
def test_every_sequence_of_endings_comes_to_an_end(history: list[Outcome]) -> None:
    action = decide(history)
    assert not isinstance(action, Dispatch)
    assert action.position < MOST_ATTEMPTS


def test_the_bound_on_attempts_is_reached() -> None:
    # An adversary who knows the table: every group to just below its cap.
    slow = Outcome("e", Verdict.TIME_LIMIT, is_reference=False)
    others = run(*[Verdict.NODE_LOST] * 2, Verdict.GPU_OUT_OF_MEMORY, *[Verdict.DUPLICATE] * 2)
    history = [slow, *others]
    assert len(history) == MOST_ATTEMPTS - 1
    assert isinstance(decide(history), Dispatch)


@given(HISTORIES, HISTORIES)
def test_what_was_decided_stays_decided(history: list[Outcome], later: list[Outcome]) -> None:
    action = decide(history)
    if not isinstance(action, Dispatch):
        assert decide(history + later) == action


@given(HISTORIES)
def test_a_valid_result_is_final_unless_something_was_decided_before_it(history: list[Outcome]) -> None:
    action = decide([*history, Outcome("e", Verdict.OK)])
    before = decide(history)
    if isinstance(before, Dispatch):
        assert action == Finish(Verdict.OK, len(history), "The first valid result is final.")
    else:
        assert action == before


@given(HISTORIES)
def test_only_the_submission_itself_makes_a_submissions_verdict(history: list[Outcome]) -> None:
    action = decide(history)
    if isinstance(action, Finish):
        deciding = history[action.position]
        assert deciding.verdict is action.verdict
        assert ending(deciding) in {Ending.VALID, Ending.SUBMISSION, Ending.TIME_PROVEN}
    elif isinstance(action, AskOperator):
        # Never a fault of the submission, but for a time-out that could not be proven.
        assert blame(action.verdict) is not Blame.SUBMISSION or action.verdict is Verdict.TIME_LIMIT
        assert action.verdict is not Verdict.OK


@given(HISTORIES)
def test_host_faults_are_not_charged_to_the_submission(history: list[Outcome]) -> None:
    action = decide(history)
    if isinstance(action, Finish):
        without = [outcome for outcome in history if ending(outcome) not in {Ending.HOST, Ending.DUPLICATE}]
        same = decide(without)
        assert isinstance(same, Finish)
        assert same.verdict is action.verdict


@given(HISTORIES, st.permutations(["n-1", "n-2", "n-3"]))
def test_names_of_nodes_and_machines_decide_nothing_but_where(history: list[Outcome], names: list[str]) -> None:
    rename = dict(zip(["n-1", "n-2", "n-3"], names, strict=True))
    renamed = [
        Outcome(
            "other", o.verdict, rename.get(o.node or ""), "x", o.is_reference, o.wall_time_scale, o.speed_ratio_upper
        )
        for o in history
    ]
    one, two = decide(history), decide(renamed)
    if isinstance(one, Dispatch):
        assert two == Dispatch(one.demand, frozenset(rename[node] for node in one.avoid_nodes))
    else:
        assert two == one


@given(HISTORIES)
def test_the_decision_is_a_function_of_the_history(history: list[Outcome]) -> None:
    assert decide(history) == decide(tuple(history))


# The table drives the code


def sample(name: Ending) -> Outcome:
    for verdict in Verdict:
        for reference in (True, False):
            outcome = Outcome("e", verdict, "n-1", is_reference=reference)
            if ending(outcome) is name:
                return outcome
    raise AssertionError(name)


@pytest.mark.parametrize("name", Ending)
def test_each_row_does_what_it_says(name: Ending) -> None:
    rule, outcome = TABLE[name], sample(name)
    for count in range(rule.cap):
        action = decide([outcome] * count)
        if count == 0:
            assert action == Dispatch()
        else:
            assert action == Dispatch(rule.demand, frozenset({"n-1"}) if rule.elsewhere else frozenset())
    last = decide([outcome] * rule.cap)
    assert last == (Finish if rule.final else AskOperator)(outcome.verdict, rule.cap - 1, rule.reason)


def test_every_verdict_has_its_row() -> None:
    assert set(TABLE) == set(Ending)
    rows = {verdict: ending(Outcome("e", verdict)) for verdict in Verdict}
    assert all(row in TABLE for row in rows.values())
    for verdict, row in rows.items():
        match blame(verdict):
            case Blame.SUBMISSION:
                assert TABLE[row].pays is Payer.SUBMISSION
                assert TABLE[row].final
            case Blame.HOST | Blame.AMBIGUOUS:
                assert TABLE[row].pays is not Payer.SUBMISSION
                assert not TABLE[row].final
            case Blame.NONE:
                assert TABLE[row].final is (verdict is Verdict.OK)


def test_the_documentation_names_every_verdict_and_every_row() -> None:
    text = document()
    assert all(f"| `{verdict.value}` |" in text for verdict in Verdict)
    assert all(f"| {name.value} |" in text for name in Ending)


# What the design names


ON_T4 = {"is_reference": False, "machine_type": "t4"}


@pytest.mark.parametrize(
    ("history", "action"),
    [
        ([], Dispatch()),
        (run(Verdict.NODE_LOST), Dispatch(avoid_nodes=frozenset({"n-0"}))),
        (run(Verdict.NODE_LOST, Verdict.HOST_FULL), Dispatch(avoid_nodes=frozenset({"n-0", "n-1"}))),
        (
            run(Verdict.NODE_LOST, Verdict.HOST_FULL, Verdict.INTERRUPTED),
            AskOperator(Verdict.INTERRUPTED, 2, TABLE[Ending.HOST].reason),
        ),
        (run(Verdict.NODE_LOST, Verdict.CRASHED), Finish(Verdict.CRASHED, 1, TABLE[Ending.SUBMISSION].reason)),
        (run(Verdict.MEMORY_LIMIT), Finish(Verdict.MEMORY_LIMIT, 0, TABLE[Ending.SUBMISSION].reason)),
        (run(Verdict.TIME_LIMIT), Finish(Verdict.TIME_LIMIT, 0, TABLE[Ending.TIME_PROVEN].reason)),
        (run(Verdict.TIME_LIMIT, is_reference=False), Dispatch(Demand.REFERENCE)),
        (
            [Outcome("e", Verdict.TIME_LIMIT, wall_time_scale=2.1, speed_ratio_upper=3.5, **ON_T4)],
            Dispatch(Demand.REFERENCE),
        ),
        (
            [Outcome("e", Verdict.TIME_LIMIT, wall_time_scale=3.5, speed_ratio_upper=3.5, **ON_T4)],
            Finish(Verdict.TIME_LIMIT, 0, TABLE[Ending.TIME_PROVEN].reason),
        ),
        (
            [Outcome("e", Verdict.TIME_LIMIT, **ON_T4), Outcome("e", Verdict.NODE_LOST, "n-1")],
            Dispatch(Demand.REFERENCE, frozenset({"n-1"})),
        ),
        (
            [Outcome("e", Verdict.TIME_LIMIT, **ON_T4), Outcome("e", Verdict.TIME_LIMIT, "n-1")],
            Finish(Verdict.TIME_LIMIT, 1, TABLE[Ending.TIME_PROVEN].reason),
        ),
        (run(Verdict.GPU_OUT_OF_MEMORY), Dispatch(Demand.MORE_GPU_MEMORY, frozenset({"n-0"}))),
        (
            run(Verdict.GPU_OUT_OF_MEMORY, Verdict.CANNOT_START),
            AskOperator(Verdict.CANNOT_START, 1, TABLE[Ending.UNCLEAR].reason),
        ),
        (run(Verdict.CANNOT_START), Dispatch(avoid_nodes=frozenset({"n-0"}))),
        (run(Verdict.DUPLICATE, Verdict.DUPLICATE), Dispatch()),
        (run(Verdict.CANCELLED), AskOperator(Verdict.CANCELLED, 0, TABLE[Ending.CANCELLED].reason)),
        (run(Verdict.UNROUTABLE), AskOperator(Verdict.UNROUTABLE, 0, TABLE[Ending.UNROUTABLE].reason)),
        (run(Verdict.OK, Verdict.CRASHED), Finish(Verdict.OK, 0, TABLE[Ending.VALID].reason)),
        ([Outcome("e", Verdict.TIME_LIMIT, wall_time_scale=0.5)], Dispatch(Demand.REFERENCE)),
    ],
)
def test_cases_that_the_design_names(history: list[Outcome], action: policy.Action) -> None:
    assert decide(history) == action


# Nodes and the breaker


def on(node: str | None, *endings: tuple[str, Verdict]) -> list[Outcome]:
    return [Outcome(evaluation, verdict, node) for evaluation, verdict in endings]


LOST, FINE, OWN, UNCLEAR = Verdict.SANDBOX_FAILED, Verdict.OK, Verdict.CRASHED, Verdict.CANNOT_START


@pytest.mark.parametrize(
    ("endings", "faults", "quarantine"),
    [
        ([("a", LOST)], 1, False),
        ([("a", LOST), ("b", LOST)], 2, True),
        ([("a", LOST), ("b", FINE), ("c", LOST)], 1, False),
        ([("a", LOST), ("b", OWN), ("c", LOST)], 1, False),
        ([("a", LOST), ("b", UNCLEAR), ("c", LOST)], 2, True),
        ([("a", LOST), ("b", Verdict.DUPLICATE), ("c", Verdict.NODE_LOST)], 2, True),
        # One evaluation that fails wherever it runs does not take the only node away from the others.
        ([("a", LOST), ("a", LOST), ("a", LOST)], 3, False),
        ([("a", LOST), ("a", LOST), ("b", LOST)], 3, True),
        ([("a", LOST), ("b", LOST), ("c", FINE)], 0, True),
        ([("a", Verdict.UNROUTABLE), ("b", Verdict.UNROUTABLE)], 0, False),
    ],
)
def test_two_host_faults_in_a_row_quarantine_a_node(
    endings: list[tuple[str, Verdict]], faults: int, quarantine: bool
) -> None:
    assert node_health(on("n-1", *endings)) == {"n-1": policy.NodeHealth(faults, quarantine)}


@given(st.lists(OUTCOMES, max_size=30))
def test_nodes_are_judged_each_by_itself(outcomes: list[Outcome]) -> None:
    together = node_health(outcomes)
    for node, health in together.items():
        assert node_health([outcome for outcome in outcomes if outcome.node == node]) == {node: health}


def faults(count: int, evaluations: int, nodes: int) -> list[Outcome]:
    return [Outcome(f"e-{i % evaluations}", Verdict.NODE_LOST, f"n-{i % nodes}") for i in range(count)]


@pytest.mark.parametrize(
    ("outcomes", "stops"),
    [
        ([], False),
        (faults(6, 3, 2), True),
        (faults(5, 5, 5), False),
        (faults(12, 2, 12), False),
        (faults(12, 12, 1), False),
        (faults(6, 6, 3) + on("n-9", *[("x", FINE)] * 6), True),
        (faults(6, 6, 3) + on("n-9", *[("x", FINE)] * 7), False),
        (faults(6, 6, 3) + on("n-9", *[("x", Verdict.DUPLICATE)] * 30), True),
        (on("n-1", *[(f"e-{i}", OWN) for i in range(40)]), False),
        ([Outcome(f"e-{i}", Verdict.NODE_LOST, None if i % 2 else "n-1") for i in range(6)], True),
        # A worker that begins nowhere is not tried with everybody; what was taken back before it began is no fault.
        ([Outcome(f"e-{i}", Verdict.NODE_LOST, None) for i in range(6)], True),
        (faults(5, 5, 5) + [Outcome(f"t-{i}", Verdict.INTERRUPTED, None) for i in range(40)], False),
    ],
)
def test_dispatch_stops_when_host_faults_spread(outcomes: list[Outcome], stops: bool) -> None:
    reason = breaker(outcomes)
    assert (reason is not None) is stops
    assert reason is None or ("host fault" in reason and "node_lost" in reason)


@pytest.mark.parametrize(
    ("machine_type", "verdict", "stops"),
    [("m (spot)", Verdict.INTERRUPTED, False), ("m (spot)", Verdict.NODE_LOST, True), ("m", Verdict.INTERRUPTED, True)],
)
def test_spot_machines_that_are_taken_back_do_not_stop_dispatch(
    machine_type: str, verdict: Verdict, stops: bool
) -> None:
    outcomes = [Outcome(f"e-{number}", verdict, f"n-{number}", machine_type) for number in range(12)]
    assert (breaker(outcomes) is not None) is stops


@given(st.lists(OUTCOMES, max_size=40))
def test_submissions_alone_never_stop_dispatch(outcomes: list[Outcome]) -> None:
    innocent = [outcome for outcome in outcomes if blame(outcome.verdict) is not Blame.HOST]
    assert breaker(innocent) is None
    assert not any(health.quarantine for health in node_health(innocent).values())


@given(st.lists(OUTCOMES, max_size=40))
def test_one_submission_alone_never_stops_dispatch(outcomes: list[Outcome]) -> None:
    same = [Outcome("a", outcome.verdict, outcome.node) for outcome in outcomes]
    assert breaker(same) is None
    assert not any(health.quarantine for health in node_health(same).values())
