"""Scoring reads what was stored, checks it against the ledger's digests, and happens in a confined process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scoring_rows import attempt, evaluation
from sklearn.metrics import log_loss, roc_auc_score

from referee.challenge import MetricChoice, PredictionFormat, UncertaintyChoice
from referee.digests import digest_of
from referee.errors import CheckFailedError, ConfigurationError
from referee.ledger.queries import EvaluationRow, ScoreRow
from referee.objects import ObjectStore
from referee.scoring.analysis import analyse_phase
from referee.scoring.score import Scoring, score_evaluations
from referee.scoring.scorer import ScoringError, ScoringLimits
from referee.verdicts import Verdict

NAMES = tuple(f"video-{number}.mp4" for number in range(60))


@dataclass
class Phase:
    """A phase with labels, and results as workers leave them."""

    folder: Path
    labels: np.ndarray[Any, np.dtype[np.float64]]
    rows: list[EvaluationRow]
    store: ObjectStore

    def add(self, submission: str, values: Any) -> bytes:
        lines = "".join(f"{name},{value!r}\n" for name, value in zip(NAMES, values, strict=True))
        data = f"filename,label\n{lines}".encode()
        self.store.put_once(f"results/key-{submission}/predictions.csv", data)
        self.rows.append(replace(evaluation(submission), predictions_digest=digest_of(data)))
        return data

    @property
    def label_file(self) -> Path:
        return self.folder / "labels.csv"

    def score(self, *, scores: tuple[ScoreRow, ...] = (), **more: Any) -> Scoring:
        arguments: dict[str, Any] = {
            "labels_digest": digest_of(self.label_file.read_bytes()),
            "choice": MetricChoice(epsilon=1e-7, secondary=("roc_auc",)),
        }
        return score_evaluations(
            "private_test",
            evaluations=self.rows,
            attempts=[attempt(row) for row in self.rows],
            scores=scores,
            store=self.store,
            names=NAMES,
            labels=self.label_file,
            layout=PredictionFormat(),
            limit_bytes=2**20,
            **arguments | more,
        )


@pytest.fixture
def phase(tmp_path: Path) -> Phase:
    labels = (np.arange(len(NAMES)) % 3 == 0).astype(float)
    shuffled = sorted(zip(NAMES, labels, strict=True), key=lambda pair: pair[0][::-1])
    text = "filename,label\n" + "".join(f"{name},{value:.0f}\n" for name, value in shuffled)
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return Phase(tmp_path, labels, [], ObjectStore(tmp_path / "objects"))


def recorded(scoring: Scoring) -> tuple[ScoreRow, ...]:
    return tuple(
        ScoreRow(
            e.evaluation, e.evaluation.split(".")[0], metric, float(value), e.predictions_digest, e.labels_digest, ""
        )
        for e in scoring.events
        for metric, value in e.scores.items()
    )


def test_scores_equal_scikit_learns_on_the_same_files(phase: Phase) -> None:
    rng = np.random.default_rng(0)
    boards = {"s-a": rng.random(60), "s-b": np.round(rng.random(60)), "s-c": np.full(60, 0.5)}
    for name, values in boards.items():
        phase.add(name, values.tolist())
    scoring = phase.score()
    assert scoring.refused == ()
    assert scoring.reference_score == pytest.approx(np.log(2), abs=1e-15)
    for event, (name, values) in zip(scoring.events, boards.items(), strict=True):
        assert event.evaluation == f"{name}.private_test"
        expected = log_loss(phase.labels, np.clip(values, 1e-7, 1 - 1e-7))
        assert float(event.scores["log_loss"]) == pytest.approx(expected, rel=1e-12)
        assert float(event.scores["roc_auc"]) == pytest.approx(roc_auc_score(phase.labels, values), rel=1e-12)
        assert event.labels_digest == digest_of(phase.label_file.read_bytes())
        assert "referee" in event.scorer_version


def test_what_has_its_scores_is_not_scored_again(phase: Phase) -> None:
    phase.add("s-a", [0.5] * 60)
    first = phase.score()
    again = phase.score(scores=recorded(first))
    assert (again.events, again.already) == ((), 1)
    phase.add("s-b", [0.4] * 60)
    third = phase.score(scores=recorded(first))
    assert [event.evaluation for event in third.events] == ["s-b.private_test"]


def test_a_metric_that_is_added_later_is_scored_alone(phase: Phase) -> None:
    phase.add("s-a", [0.4] * 60)
    first = phase.score()
    more = phase.score(scores=recorded(first), choice=MetricChoice(epsilon=1e-7, secondary=("roc_auc", "brier")))
    assert [set(event.scores) for event in more.events] == [{"brier"}]


def test_a_result_that_changed_after_it_was_recorded_is_refused(phase: Phase) -> None:
    phase.add("s-a", [0.5] * 60)
    data = phase.add("s-b", [0.25] * 60)
    phase.store.put("results/key-s-b/predictions.csv", data.replace(b"0.25", b"0.26", 1))
    scoring = phase.score()
    assert [event.evaluation for event in scoring.events] == ["s-a.private_test"]
    assert [(r.evaluation, "not those that the ledger holds" in r.reason) for r in scoring.refused] == [
        ("s-b.private_test", True)
    ]


def test_a_result_that_is_gone_broken_or_too_large_is_refused_and_the_others_are_scored(phase: Phase) -> None:
    for name in ("s-a", "s-b", "s-c"):
        phase.add(name, [0.5] * 60)
    phase.add("s-d", [0.1] * 60)
    (phase.folder / "objects/results/key-s-a/predictions.csv").unlink()
    phase.store.put("results/key-s-b/predictions.csv", b"filename,label\n")
    phase.store.put("results/key-s-c/predictions.csv", b"0" * 2**21)
    scoring = phase.score()
    assert [event.evaluation for event in scoring.events] == ["s-d.private_test"]
    assert {refused.evaluation for refused in scoring.refused} == {f"s-{x}.private_test" for x in "abc"}


def test_only_valid_results_are_looked_at(phase: Phase) -> None:
    phase.rows.append(evaluation("s-a", Verdict.CRASHED))
    phase.rows.append(evaluation("s-b", None))
    assert phase.score() == Scoring((), (), 0, None)


def test_an_undefined_secondary_metric_is_left_out(phase: Phase) -> None:
    text = phase.label_file.read_text().replace(",1\n", ",0\n")
    phase.label_file.write_text(text)
    phase.add("s-a", [0.5] * 60)
    assert [set(event.scores) for event in phase.score().events] == [{"log_loss"}]


def test_other_labels_than_the_recorded_ones_are_refused(phase: Phase) -> None:
    phase.add("s-a", [0.5] * 60)
    with pytest.raises(CheckFailedError, match="is not the one that the ledger holds"):
        phase.score(labels_digest="sha256:" + "1" * 64)


def test_labels_that_do_not_fit_the_phase_are_explained(phase: Phase) -> None:
    phase.add("s-a", [0.5] * 60)
    phase.label_file.write_text("filename,label\nvideo-0.mp4,1\n")
    with pytest.raises(ConfigurationError, match="no label for 59 of the phase's 60 files"):
        phase.score()


def test_the_process_is_stopped_by_its_limits(phase: Phase) -> None:
    phase.add("s-a", [0.5] * 60)
    with pytest.raises(ScoringError, match="ended with status"):
        phase.score(limits=ScoringLimits(memory_bytes=2**26))
    with pytest.raises(ScoringError, match="ended with status"):
        phase.score(limits=ScoringLimits(cpu_seconds=0, cpu_seconds_for_each=0))


PROBE = """
import os, socket
from referee.scoring.metrics import Brier

class Probe(Brier):
    name = "probe"

    def per_item(self, labels, predictions):
        found = {"interfaces": [name for _, name in socket.if_nameindex()], "environment": sorted(os.environ)}
        try:
            with open(__file__ + ".stolen", "w") as file:
                file.write("labels")
        except OSError as error:
            found["write"] = error.errno
        raise RuntimeError(str(found))

def make(parameter, epsilon):
    return Probe()
"""


def test_a_packages_metric_runs_without_network_and_cannot_write(phase: Phase, tmp_path: Path) -> None:
    """A real package, installed for the scoring process alone, tells through its error what it could reach."""
    site = tmp_path / "site"
    (site / "probe-1.dist-info").mkdir(parents=True)
    (site / "probe_metric.py").write_text(PROBE)
    (site / "probe-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1\n")
    (site / "probe-1.dist-info" / "entry_points.txt").write_text("[referee.metrics]\nprobe = probe_metric:make\n")
    phase.add("s-a", [0.5] * 60)
    runner = tmp_path / "python"
    runner.write_text(
        f"#!/bin/sh\nshift 3\nexec {sys.executable} -c \"import sys; sys.path.insert(0, '{site}');"
        ' from referee.scoring.process import main; sys.exit(main())"\n'
    )
    runner.chmod(0o755)
    original, sys.executable = sys.executable, str(runner)
    sys.path.insert(0, str(site))
    try:
        with pytest.raises(ScoringError) as caught:
            phase.score(choice=MetricChoice(name="probe"))
    finally:
        sys.executable = original
        sys.path.remove(str(site))
    said = caught.value.message
    assert "'interfaces': ['lo']" in said
    assert "'write': 27" in said  # EFBIG
    assert "REFEREE" not in said
    assert "HOME" not in said


def test_the_controllers_environment_does_not_reach_the_process(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(phase.folder))
    (phase.folder / "numpy.py").write_text("raise SystemExit('taken over')")
    phase.add("s-a", [0.5] * 60)
    assert len(phase.score().events) == 1
    assert os.environ["PYTHONPATH"]


def test_the_board_is_analysed_in_the_same_confined_process(phase: Phase) -> None:
    rng = np.random.default_rng(0)
    for place in range(5):
        phase.add(f"s-{place}", np.clip(phase.labels * 0.5 + 0.5 * rng.random(60), 0, 1).tolist())
    phase.add("s-9", [0.5] * 60)
    phase.rows[-1] = replace(phase.rows[-1], predictions_digest="sha256:" + "1" * 64)
    analysis, refused = analyse_phase(
        "private_test",
        evaluations=phase.rows,
        attempts=[attempt(row) for row in phase.rows],
        store=phase.store,
        names=NAMES,
        labels=phase.label_file,
        labels_digest=digest_of(phase.label_file.read_bytes()),
        metadata=None,
        metric=MetricChoice(epsilon=1e-7),
        layout=PredictionFormat(),
        uncertainty=UncertaintyChoice(replicates=200),
        limit_bytes=2**20,
    )
    assert [one.evaluation for one in refused] == ["s-9.private_test"]
    assert analysis.standings is not None
    by_name = {one.entry: one.score for one in analysis.standings.entries}
    scored = {event.evaluation.split(".")[0]: float(event.scores["log_loss"]) for event in phase.score().events}
    assert by_name == scored
    assert analysis.boundaries[0].winner == analysis.standings.entries[0].entry
