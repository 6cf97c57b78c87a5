"""Confirming the prize zone: every run asks for a machine that has not run the submission, and says what it got."""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from scoring_rows import attempt, evaluation

from audit_world import make_campaign, opened
from referee.attempts import AttemptSpec
from referee.campaign import Campaign, for_series
from referee.challenge import MachineType
from referee.confirmations import begin, conclude, score_series
from referee.engines.memory import MemoryEngine, Play
from referee.freshness import of_other_types, used_up
from referee.ledger import ConfirmationRecorded, ConfirmedRun, queries
from referee.objects import ObjectStore
from referee.phases import record_phase
from referee.scoring.confirmation import machines_in_words
from referee.verdicts import Verdict

PHASE = "private_test"
MACHINES = {"local": MachineType(cpus=64, memory=2**40, reference=True)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of three submissions with scores, all of which ran on the machine n-1."""
    return make_campaign(tmp_path_factory.mktemp("finished") / "challenge", submissions=3)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return shutil.copytree(finished, tmp_path / "challenge")


def again(objects: ObjectStore, asked: list[AttemptSpec]) -> object:
    """A script: every run predicts what its submission predicted officially."""

    def script(spec: AttemptSpec, chance: random.Random) -> Play:
        asked.append(spec)
        data = objects.get(f"results/key-{spec.submission}-{PHASE}/predictions.csv", limit_bytes=1 << 20)
        return Play(seconds=1 + chance.random(), predictions=data, rows=24)

    return script


def confirm(folder: Path, nodes: Sequence[str], top: int = 2, runs: int = 3) -> tuple[ConfirmationRecorded, list]:
    workspace, ledger = opened(folder)
    asked: list[AttemptSpec] = []
    with ledger:
        script = again(workspace.objects, asked)
        engine = MemoryEngine(
            workspace.objects,
            script,
            machines=MACHINES,
            nodes={"local": nodes},
            slots=4,  # type: ignore[arg-type] # a nested function
        )
        all_series = begin(workspace, ledger, PHASE, top=top, runs=runs, machine_type=None)
        for series in all_series:
            challenge = for_series(workspace.challenge, series)
            data = record_phase(workspace.challenge, PHASE)
            with ledger.lead() as lease:
                campaign = Campaign(challenge, lease, engine, workspace.objects, data, PHASE, series=series)
                campaign.run()
            assert not score_series(workspace, ledger, series).refused
        event = conclude(workspace, ledger, PHASE, all_series, top)
        ledger.verify()
        assert queries.confirmations(ledger, PHASE)[-1] == event
    return event, asked


def nodes_of(event: ConfirmationRecorded) -> dict[str, list[str | None]]:
    found = defaultdict(list)
    for run in event.runs:
        found[run.submission].append(run.node)
    return found


def test_each_run_is_on_a_machine_that_has_not_run_the_submission(folder: Path) -> None:
    event, asked = confirm(folder, ["n-1", "n-2", "n-3", "n-4"])
    assert {tuple(sorted(map(str, nodes))) for nodes in nodes_of(event).values()} == {("n-2", "n-3", "n-4")}
    assert {run.official_node for run in event.runs} == {"n-1"}
    assert all(run.fresh_node and run.same_predictions for run in event.runs)
    assert machines_in_words(event) == ("Each of the 6 runs was on a machine that had not run its submission before.",)
    assert Counter(len(spec.avoid_nodes) for spec in asked) == {1: 2, 2: 2, 3: 2}


def test_where_all_machines_were_used_the_least_used_is_asked_for_and_that_is_told(folder: Path) -> None:
    event, _ = confirm(folder, ["n-1", "n-2"], runs=2)
    assert {nodes[0] for nodes in nodes_of(event).values()} == {"n-2"}
    assert [run.fresh_node for run in event.runs] == [True, False] * 2
    first, second = machines_in_words(event)
    assert first == "2 of 4 runs were on a machine that had not run their submission before."
    assert second.startswith("Not on a fresh machine, since there was none: s-")
    # The next confirmation knows the first one's machines.
    event, _ = confirm(folder, ["n-1", "n-2", "n-9"], runs=1)
    assert {run.node for run in event.runs} == {"n-9"}
    assert all(run.fresh_node for run in event.runs)


def test_on_the_only_machine_it_is_said_that_it_was_the_same(folder: Path) -> None:
    event, asked = confirm(folder, ["n-1"], runs=1)
    assert {(run.node, run.official_node, run.fresh_node) for run in event.runs} == {("n-1", "n-1", False)}
    (told,) = machines_in_words(event)
    assert told.startswith("All ran on the one machine n-1, the official runs too")
    assert all(spec.avoid_nodes == () for spec in asked)


def test_a_confirmation_that_goes_on_is_recorded_as_what_it_was_begun_for(folder: Path) -> None:
    workspace, ledger = opened(folder)
    with ledger:
        begun = begin(workspace, ledger, PHASE, top=1, runs=1, machine_type=None)
        assert len(begun[0].submissions) == 1
    event, _ = confirm(folder, ["n-1", "n-2"], top=3, runs=2)
    assert {run.submission for run in event.runs} == set(begun[0].submissions)
    assert (event.top, len(event.runs)) == (1, 1)


def test_of_the_machines_there_the_least_used_remain() -> None:
    assert used_up(["a", "b"], Counter(a=1)) == {"a"}
    assert used_up(["a"], Counter(a=1)) == frozenset()
    assert used_up(["a", "b"], Counter(a=2, b=1)) == {"a"}
    assert used_up([], Counter(a=1)) == {"a"}


def test_a_machine_of_another_type_is_no_alternative() -> None:
    rows = [
        replace(attempt(evaluation("s-1")), machine_type=kind, node=node)
        for kind, node in (("small", "a"), ("large", "b"), ("small", "c"), ("large", "c"), ("large", None))
    ]
    assert of_other_types("small", rows) == {"b"}


def test_ledgers_of_before_say_only_where_runs_were() -> None:
    run = ConfirmedRun(submission="s-1", series="c-1-1", verdict=Verdict.OK, node="n-7")
    event = ConfirmationRecorded(confirmation="c-1", phase=PHASE, top=1, machine_type="local", runs=(run,))
    assert machines_in_words(event) == ("They ran on n-7.",)
    lost = event.model_copy(update={"runs": (run.model_copy(update={"node": None}),)})
    assert machines_in_words(lost) == ()
