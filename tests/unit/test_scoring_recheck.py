"""The reproduction check of a phase: what was recorded is read leniently, compared in the scoring process, and told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring_rows import attempt, evaluation, score
from sklearn.metrics import log_loss

from referee.challenge import MetricChoice, PredictionFormat, ReproductionChoice
from referee.digests import digest_of
from referee.errors import CheckFailedError, ConfigurationError
from referee.ledger.queries import EvaluationRow
from referee.objects import ObjectStore
from referee.scoring.confirmation import confirmed_runs, prize_zone
from referee.scoring.leaderboard import leaderboard
from referee.scoring.metric import find_metric
from referee.scoring.recheck import recheck_phase
from referee.scoring.recorded import (
    RecordedScore,
    find_recorded_predictions,
    read_recorded_predictions,
    read_recorded_scores,
)
from referee.scoring.reproduction import Cause, Outcome, Reproduction, in_sentences, success_rate
from referee.verdicts import Verdict

NAMES = tuple(f"video-{number}.mp4" for number in range(40))
LABELS = (np.arange(len(NAMES)) % 3 == 0).astype(float)
GOOD = np.where(LABELS == 1, 0.8, 0.3)


class World:
    """A public phase with labels and results as workers leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ObjectStore(folder / "objects")
        self.rows: list[EvaluationRow] = []
        self.further: list[EvaluationRow] = []
        self.labels = folder / "labels.csv"
        self.labels.write_bytes(table(LABELS))

    def add(self, submission: str, values: Any, series: str = "") -> None:
        data = table(values)
        row = replace(evaluation(submission, phase="public_test"), predictions_digest=digest_of(data), series=series)
        if series:
            name = f"{row.evaluation}.{series}"
            row = replace(row, evaluation=name, attempt=f"{name}.1")
        self.store.put_once(f"results/key-{row.evaluation}/predictions.csv", data)
        (self.further if series else self.rows).append(row)

    def check(self, scores: dict[str, float], files: dict[str, Path] | None = None) -> dict[str, Reproduction]:
        found = recheck_phase(
            "public_test",
            evaluations=self.rows,
            further=self.further,
            attempts=[replace(attempt(row), result_key=f"key-{row.evaluation}") for row in (*self.rows, *self.further)],
            scores={name: RecordedScore(value) for name, value in scores.items()},
            files=files or {},
            store=self.store,
            names=NAMES,
            labels=self.labels,
            labels_digest=digest_of(self.labels.read_bytes()),
            metric=MetricChoice(),
            layout=PredictionFormat(),
            choice=ReproductionChoice(),
            limit_bytes=2**20,
        )
        return {one.submission: one for one in found}


def table(values: Any) -> bytes:
    rows = "".join(f"{name},{float(value)!r}\n" for name, value in zip(NAMES, values, strict=True))
    return f"filename,label\n{rows}".encode()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_outcome_with_its_cause(world: World) -> None:
    true = float(log_loss(LABELS, GOOD))
    sure = np.where(np.arange(len(NAMES)) == 0, 0.0, GOOD)
    for name, values in {"s-a": GOOD, "s-b": GOOD, "s-c": GOOD, "s-d": GOOD, "s-e": sure}.items():
        world.add(name, values)
    world.rows.append(evaluation("s-f", Verdict.TIME_LIMIT, phase="public_test"))
    world.rows.append(evaluation("s-g", Verdict.NODE_LOST, phase="public_test"))
    world.rows.append(evaluation("s-h", None, phase="public_test"))
    world.add("s-c", GOOD + 0.01, series="reproduction-1")
    clipped = float(log_loss(LABELS, np.clip(sure, 1e-4, 1 - 1e-4)))
    found = world.check({"s-a": round(true, 5), "s-b": true + 5e-4, "s-c": true - 0.1, "s-e": round(clipped, 5)})
    assert {name: (one.outcome, one.cause) for name, one in found.items()} == {
        "s-a": (Outcome.EXACT, Cause.NONE),
        "s-b": (Outcome.WITHIN_TOLERANCE, Cause.UNKNOWN),
        "s-c": (Outcome.DIFFERENT, Cause.NONDETERMINISM),
        "s-d": (Outcome.NOTHING_RECORDED, Cause.NONE),
        "s-e": (Outcome.DIFFERENT, Cause.CLIPPING),
        "s-f": (Outcome.FAILED, Cause.SUBMISSION),
        "s-g": (Outcome.FAILED, Cause.HOST),
    }
    assert found["s-c"].run_to_run == pytest.approx(0.01)
    assert found["s-a"].rerun_score == pytest.approx(true, abs=1e-12)
    assert in_sentences(success_rate(list(found.values())))[:2] == (
        "5 of 7 submissions (71%) could be re-run.",
        "2 of the 4 with a recorded score (50%) gave it again.",
    )


def test_two_runs_that_agree_say_that_the_record_is_wrong(world: World) -> None:
    world.add("s-a", GOOD)
    world.add("s-a", GOOD, series="reproduction-1")
    one = world.check({"s-a": 0.1})["s-a"]
    assert (one.outcome, one.run_to_run) == (Outcome.DIFFERENT, 0.0)
    assert "agree with each other" in one.explanation


def test_the_first_valid_attempt_counts_and_never_the_best(world: World) -> None:
    world.add("s-a", GOOD + 0.1)
    world.add("s-a", GOOD, series="reproduction-1")
    assert world.check({"s-a": float(log_loss(LABELS, GOOD))})["s-a"].outcome is Outcome.DIFFERENT


def test_recorded_files_are_compared_row_by_row(world: World, tmp_path: Path) -> None:
    for name in ("s-a", "s-b", "s-c"):
        world.add(name, GOOD)
    kept = {name: tmp_path / f"{name}.csv" for name in ("s-a", "s-b", "s-c")}
    kept["s-a"].write_bytes(table(GOOD))
    kept["s-b"].write_bytes(table(GOOD).replace(b"video-7.mp4,0.3\n", b""))
    kept["s-c"].write_bytes(table(GOOD + 1e-9))
    found = world.check({}, kept)
    assert {name: (one.outcome, one.cause) for name, one in found.items()} == {
        "s-a": (Outcome.EXACT, Cause.NONE),
        "s-b": (Outcome.DIFFERENT, Cause.MISSING_ROWS),
        "s-c": (Outcome.WITHIN_TOLERANCE, Cause.FLOAT_NOISE),
    }


def test_a_result_that_was_changed_since_is_not_compared(world: World) -> None:
    world.add("s-a", GOOD)
    world.rows[0] = replace(world.rows[0], predictions_digest=digest_of(b"other"))
    with pytest.raises(CheckFailedError, match="not those that the ledger holds"):
        world.check({"s-a": 0.1})


@given(st.binary(max_size=400))
def test_reading_recorded_predictions_never_fails(data: bytes) -> None:
    for given_ in (data, b"filename,label\n" + data):
        values = read_recorded_predictions(given_, NAMES, PredictionFormat())
        assert values.shape == (len(NAMES),)
        assert (np.isnan(values) | ((values >= 0) & (values <= 1))).all()


def test_rows_that_are_doubled_or_outside_the_range_are_missing() -> None:
    data = (
        b"filename,label\nvideo-0.mp4,0.5\nvideo-1.mp4,1.5\nvideo-2.mp4,nan\nvideo-3.mp4,0.1\nvideo-3.mp4,0.2\nx,0.5\n"
    )
    values = read_recorded_predictions(data, NAMES, PredictionFormat())
    assert values[0] == 0.5
    assert np.isnan(values[1:]).all()


def test_a_table_of_scores_is_read_by_name_or_blind_id(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("submission,score,hardware\nnet-1,0.25,p3\ns-b,0.5,\nunknown,0.1,\ns-c,,\n")
    blind = {"net-1": "s-a", "s-a": "s-a", "s-b": "s-b", "s-c": "s-c"}
    assert read_recorded_scores(path, blind) == {"s-a": RecordedScore(0.25, "p3"), "s-b": RecordedScore(0.5)}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("submission,points\na,1\n", "lacks the columns"),
        ("", "lacks the columns"),
        ("submission,score\ns-a,much\n", "row 2: the score is no finite number"),
        ("submission,score\ns-a,nan\n", "row 2: the score is no finite number"),
        ("submission,score\ns-a,0.1\ns-a,0.2\n", "row 3: the score belongs to a submission that was named before"),
        ("submission,score\nnobody,0.1\n", "names no submission"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_row(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(ConfigurationError, match=what):
        read_recorded_scores(tmp_path / "scores.csv", {"s-a": "s-a"})


def test_recorded_files_are_found_by_name_or_blind_id(tmp_path: Path) -> None:
    for name in ("net-1.csv", "s-b.csv", "notes.csv", "s-c.txt"):
        (tmp_path / name).write_text("")
    blind = {"net-1": "s-a", "s-a": "s-a", "s-b": "s-b", "s-c": "s-c"}
    found = find_recorded_predictions(tmp_path, blind)
    assert {name: path.name for name, path in found.items()} == {"s-a": "net-1.csv", "s-b": "s-b.csv"}
    with pytest.raises(ConfigurationError, match="called after"):
        find_recorded_predictions(tmp_path, {"other": "s-x"})


def test_the_prize_zone_again_is_compared_and_ranked_without_touching_the_board() -> None:
    rows = [evaluation(f"s-{place}") for place in range(4)]
    scores = [score(row.submission, value) for row, value in zip(rows, [0.1, 0.2, 0.2, 0.4], strict=True)]
    board = leaderboard("private_test", [find_metric("log_loss")], rows, scores)
    assert prize_zone(board, 1) == ("s-0",)
    assert prize_zone(board, 2) == ("s-0", "s-1", "s-2")
    runs = [
        replace(rows[0], evaluation="s-0.again", series="c-1", attempt="a"),
        replace(rows[1], evaluation="s-1.again", series="c-1", predictions_digest="sha256:" + "1" * 64),
        replace(evaluation("s-2", Verdict.NODE_LOST), evaluation="s-2.again", series="c-1"),
    ]
    again = [
        replace(score("s-0", 0.1), evaluation="s-0.again"),
        replace(score("s-1", 0.3), evaluation="s-1.again"),
    ]
    nodes = {str(rows[0].attempt): "n1", "a": "n2"}
    found = confirmed_runs(board, rows, runs, again, nodes=nodes, fresh={"a"})
    assert next((run.official_node, run.node, run.fresh_node) for run in found) == ("n1", "n2", True)
    assert [(run.submission, run.same_predictions, run.score, run.rank) for run in found] == [
        ("s-0", True, "0.1", 1),
        ("s-1", False, "0.3", 3),
        ("s-2", None, None, None),
    ]
