"""The report says what the ledger's rows add up to, in one file that needs nothing else and lets nothing in."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scoring_rows import WHEN, attempt, evaluation, score

from referee.challenge import Challenge, Limits, MachineType, Phase, UncertaintyChoice
from referee.engines.machine_lives import MachineLife
from referee.ledger.queries import AttemptRow, EvaluationRow, RulingRow, ScoreRow
from referee.report import ReportData, pictures, render_report, report_data
from referee.report.bill import bill
from referee.report.machine_bill import machine_bill
from referee.rulings import Ruling
from referee.scoring.analysis import AnalysisOrder, Group, SuspectFacts, analyse
from referee.scoring.leaderboard import SEALED, leaderboard, unblinded
from referee.scoring.metric import constant_half, find_metric
from referee.scoring.shakeup import shake_up
from referee.verdicts import Blame, Verdict

METRICS = [find_metric("log_loss"), find_metric("roc_auc")]
MACHINES = {
    "local": MachineType(cpus=2, memory=2**34, price=Decimal("0.526")),
    "p3.2xlarge": MachineType(cpus=8, memory=2**35, price=Decimal("3.06")),
}
VERDICTS = (Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT, Verdict.NODE_LOST, Verdict.GPU_OUT_OF_MEMORY)


def challenge(title: str = "A small challenge") -> Challenge:
    phases = {"private_test": Phase(data=Path("data"), visibility="private")}
    return Challenge(name="small", title=title, phases=phases, machines=MACHINES, limits=Limits(memory=2**30))


def example(title: str = "A small challenge", *, with_public: bool = True, scored: int = 8) -> ReportData:
    rows: list[EvaluationRow] = [evaluation(f"s-{place}") for place in range(scored)]
    rows += [evaluation(f"s-x{place}", verdict) for place, verdict in enumerate(VERDICTS)]
    scores: list[ScoreRow] = [score(f"s-{place}", 0.2 + place / 10) for place in range(scored)]
    scores += [score(f"s-{place}", 0.9 - place / 20, "roc_auc") for place in range(scored)]
    public = None
    if with_public:
        beside = [evaluation(row.submission, phase="public_test") for row in rows]
        theirs = [score(f"s-{place}", 0.9 - place / 10, phase="public_test") for place in range(scored)]
        public = leaderboard("public_test", METRICS, beside, theirs)
    board = leaderboard("private_test", METRICS, rows, scores, reference_score=constant_half(METRICS[0]), public=public)
    attempts = [
        attempt(
            row, seconds=None if row.verdict is Verdict.NODE_LOST else 60.0 + place, machine=list(MACHINES)[place % 2]
        )
        for place, row in enumerate(rows)
    ]
    return report_data(
        challenge(title),
        board,
        evaluations=rows,
        attempts=attempts,
        as_of=WHEN,
        facts=[("labels", "sha256:" + "ab" * 32)],
        accepted_risks=["shared_host"],
    )


class Page(HTMLParser):
    """What a browser would load, run or show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br", "path", "line", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def test_the_page_needs_no_network_no_script_and_no_second_file() -> None:
    html = render_report(example())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in {"src", "href", "xlink:href"}, (tag, value)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert not re.findall(r"https?://(?!www\.w3\.org/)", html)


def test_the_page_tells_ranks_scores_failures_and_the_bill() -> None:
    data = example()
    text = Page(render_report(data)).text
    for row in data.board.rows:
        assert row.submission in text
        assert f"{row.score:.5f}" in text
    assert "constant 0.5 0.69315" in text
    for verdict in VERDICTS:
        assert verdict.value.replace("_", " ") in text
    assert data.bill.cost_usd is not None
    assert f"${data.bill.cost_usd:,.2f}" in text
    assert "shared_host" in text
    assert "public_test" in text
    assert "1 attempts ended without a known duration" in text


def analysed() -> ReportData:
    rng = np.random.default_rng(0)
    labels = (np.arange(100) % 2).astype(float)
    predictions = np.clip(labels * 0.5 + 0.5 * rng.random((6, 100)), 0, 1)
    predictions[4] = predictions[2]
    facts = {
        f"s-{place}.private_test": SuspectFacts(
            submission=f"s-{place}", team=f"t-{place}", image=f"i-{place}", predictions_digest=f"p-{max(place, 4)}"
        )
        for place in range(6)
    }
    order = AnalysisOrder(choice=UncertaintyChoice(replicates=200, prize_places=(1, 2)), results=facts)
    names = [f"secret-{place}.mp4" for place in range(100)]
    analysis = analyse(order, METRICS[0], names, labels, list(facts), predictions)
    groups = tuple(
        Group(column="kind", value=value, items=50, scores={f"s-{place}": 0.5 + place for place in range(6)})
        for value in ("swap", "organic")
    )
    return replace(example(), analysis=analysis.model_copy(update={"groups": groups}))


def test_the_page_tells_what_the_scores_are_worth() -> None:
    data = analysed()
    assert data.analysis is not None
    assert data.analysis.standings is not None
    html = render_report(data)
    text = Page(html).text
    for one in data.analysis.standings.entries:
        assert f"{one.score_low:.5f} to {one.score_high:.5f}" in text
        assert f"{one.rank_low} to {one.rank_high}" in text
    assert "Items were drawn singly" in text
    assert text.count("Between place") == 2
    assert "identical predictions" in text
    assert "organic 50 files" in text
    assert html.count("<svg") == 8


def test_reliability_is_drawn_and_told_for_each_of_the_best() -> None:
    data = analysed()
    assert data.analysis is not None
    html = render_report(data)
    text = Page(html).text
    assert 'aria-label="Reliability diagrams of the best submissions"' in html
    for name, points in data.analysis.reliability.items():
        assert f">{name}</text>" in html
        assert sum(point.items for point in points) == 100
        for point in points:
            told = f"{point.low:.1f} to {point.high:.1f} {point.items} {point.mean_prediction:.3f} "
            assert told + f"{point.share_of_fakes:.3f}" in text
    drawn = pictures.reliability({"s-a": data.analysis.reliability["s-0"]})
    assert drawn is not None
    assert pictures.reliability({}) is None


def test_groups_are_drawn_with_the_winner_and_how_many_files_they_have() -> None:
    found = [
        Group(column="organic", value="yes", items=7, scores={"s-a": 0.4, "s-b": 0.5}),
        Group(column="organic", value="", items=3, scores={"s-a": 0.6, "s-b": None}),
    ]
    drawn = pictures.groups(found, "log_loss", ["s-a", "s-b"])
    assert drawn is not None
    assert "organic: yes, 7" in drawn
    assert "organic: (empty), 3" in drawn
    nobody = [Group(column="organic", value="yes", items=7, scores={"s-a": None})]
    assert pictures.groups(nobody, "log_loss", ["s-a"]) is None
    assert pictures.groups([], "log_loss", ["s-a"]) is None


def test_no_page_names_a_private_file() -> None:
    data = analysed()
    assert data.analysis is not None
    decisive = tuple(f"secret-{place}.mp4" for place in range(3))
    boundary = data.analysis.boundaries[0].model_copy(update={"by_relabelling": decisive, "by_removal": decisive[:1]})
    html = render_report(replace(data, analysis=data.analysis.model_copy(update={"boundaries": (boundary,)})))
    assert "secret" not in html
    assert "3 single files would change who stands before this boundary" in html
    assert "and 1 single file if left out" in html


def test_the_shake_up_is_told_among_those_on_both_boards() -> None:
    rows = [evaluation("s-a"), evaluation("s-b")]
    beside = [evaluation(name, phase="public_test") for name in ("s-a", "s-b", "s-gone")]
    theirs = [score(n, v, phase="public_test") for n, v in (("s-a", 0.3), ("s-b", 0.2), ("s-gone", 0.1))]
    public = leaderboard("public_test", METRICS, beside, theirs)
    board = leaderboard("private_test", METRICS, rows, [score("s-a", 0.4), score("s-b", 0.5)], public=public)
    data = report_data(challenge(), board, evaluations=rows, attempts=[], as_of=WHEN, public=public)
    text = Page(render_report(data)).text
    assert "s-a t-a 0.40000 0.30000 3 ▲ 1" in text
    assert "s-b t-b 0.50000 0.20000 2 ▼ 1" in text
    assert "The median move is 1 place. Rank correlation: Spearman -1.000, Kendall -1.000." in text


def test_the_shake_up_tells_groups_apart_by_shape_as_well_as_by_colour() -> None:
    names = [f"s-{place:02}" for place in range(14)]
    theirs = [score(name, 0.3 + place / 100, phase="public_test") for place, name in enumerate(names)]
    mine = [score(name, 0.3 + (place + 3) % 14 / 100) for place, name in enumerate(names)]
    public = leaderboard("public_test", METRICS, [evaluation(n, phase="public_test") for n in names], theirs)
    board = leaderboard("private_test", METRICS, list(map(evaluation, names)), mine, public=public)
    found = shake_up(public, board)
    groups = tuple(
        Group(column="organic", value=value, items=20, scores=dict.fromkeys(names, at))
        for value, at in (("yes", 0.3), ("</text><script>", 0.5))
    )
    zones = pictures.shake_up(board, found) or ""
    assert all(f"top 10 {where}" in zones for where in ("on both", "before only", "after only"))
    assert "organic" not in zones
    drawn = pictures.shake_up(board, found, groups) or ""
    assert "organic" in drawn
    assert "yes, 20 files" in drawn
    assert "<script" not in drawn
    for picture, kinds in ((zones, 3), (drawn, 3)):
        assert len(set(re.findall(r'transform="translate\([^)]*\)" d="([^"]+)"', picture))) >= kinds
    # Where everyone is in the zone and the files have no groups, there is nothing to tell apart.
    few = leaderboard("private_test", METRICS, [evaluation("s-00")], mine[:1], public=public)
    assert "top " not in (pictures.shake_up(few, shake_up(public, few)) or "")


def test_the_constant_half_stands_between_the_rows_it_separates() -> None:
    text = Page(render_report(example())).text
    assert text.index("s-4") < text.index("constant 0.5") < text.index("s-5")  # 0.6 < 0.693 < 0.7


def test_every_picture_follows_the_colours_of_the_page() -> None:
    html = render_report(example())
    assert html.count("<svg") == 5
    assert not re.search(r"#0a0b[0-9a-f]{2}", html)
    assert "var(--submission)" in html


def test_identifiers_of_pictures_do_not_meet() -> None:
    html = render_report(example())
    defined = re.findall(r'\bid="([^"]+)"', html)
    assert len(defined) == len(set(defined))
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(defined)


def test_the_same_ledger_gives_the_same_bytes() -> None:
    assert render_report(example()) == render_report(example())


def test_text_from_outside_is_shown_and_never_run() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    data = example(title=evil)
    named = unblinded(data.board, {row.submission: (evil, evil) for row in (*data.board.rows, *data.board.unscored)})
    html = render_report(replace(data, board=named, facts=((evil, evil),), accepted_risks=(evil,)))
    assert not {"script", "img"} & {tag for tag, _ in Page(html).tags}
    assert html.count("&lt;script&gt;") > len(VERDICTS)


@pytest.mark.parametrize("scored", [0, 1, 2, 400])
def test_boards_of_any_size_have_a_report(scored: int) -> None:
    data = example(scored=scored, with_public=scored != 1)
    html = render_report(data)
    assert ("Public against private" in html) == (scored > 1)
    assert ("Nothing was scored yet." in html) == (scored == 0)


def test_a_campaign_that_runs_is_not_called_final() -> None:
    rows = [evaluation("s-a"), evaluation("s-b", None)]
    board = leaderboard("private_test", METRICS, rows, [score("s-a", 0.5)])
    data = report_data(challenge(), board, evaluations=rows, attempts=[attempt(rows[0])], as_of=WHEN)
    assert "This is not the final board: 1 of 2 evaluations have not ended" in Page(render_report(data)).text
    assert "not the final board" not in render_report(example())


@pytest.mark.parametrize(
    ("verdict", "sealed", "said"),
    [
        (Verdict.OK, False, "This is not the final board: 1 valid result was not scored yet."),
        (Verdict.OK, True, "This is not the final board: scores are sealed until release."),
        (None, False, "This is not the final board: 1 of 2 evaluations have not ended."),
    ],
)
def test_what_is_missing_of_a_final_board_is_said(verdict: Verdict | None, sealed: bool, said: str) -> None:
    rows = [evaluation("s-a"), evaluation("s-b", verdict)]
    off = RulingRow(1, "s-a", "t-a", Ruling.DISQUALIFY, "copied", WHEN)
    board = leaderboard("private_test", METRICS, rows, [score("s-a", 0.5)], rulings=[off])
    if sealed:
        board = replace(board, unscored=tuple(replace(one, reason=SEALED) for one in board.unscored))
    data = report_data(challenge(), board, evaluations=rows, attempts=[attempt(row) for row in rows], as_of=WHEN)
    assert said in Page(render_report(data)).text


def test_the_bill_s_last_row_is_the_sum_of_those_above_it() -> None:
    rows = [evaluation("s-a"), evaluation("s-b")]
    probe = replace(attempt(rows[0]), attempt="s-a.private_test.probe-1.1", evaluation="s-a.private_test.probe-1")
    board = leaderboard("private_test", METRICS, rows, [score("s-a", 0.5), score("s-b", 0.6)])
    again = replace(
        attempt(rows[1]), attempt="s-b.private_test.reproduction-1.1", evaluation="s-b.private_test.reproduction-1"
    )
    other = replace(attempt(rows[1]), attempt="s-b.public_test.1", evaluation="s-b.public_test")
    attempts = [*map(attempt, rows), probe, again, other]
    text = Page(render_report(report_data(challenge(), board, evaluations=rows, attempts=attempts, as_of=WHEN))).text
    told = re.findall(r"\b(local|all) (\d+) ", text[text.index("The bill") : text.index("Of these hours")])
    assert told == [("local", "4"), ("all", "4")]
    assert re.search(r"further runs, beside the official ones: probe 1 \(.* hours, .*\); reproduction 1 \(", text)


def test_nothing_run_yet_is_a_report_too() -> None:
    board = leaderboard("private_test", METRICS, [], [])
    data = report_data(challenge(), board, evaluations=[], attempts=[], as_of=WHEN)
    assert "Nothing has run yet." in render_report(data)


def test_failures_are_counted_by_evaluation_and_by_attempt() -> None:
    row = evaluation("s-a")
    lost = replace(attempt(row, seconds=None), verdict=Verdict.NODE_LOST, attempt="s-a.0")
    board = leaderboard("private_test", METRICS, [row], [])
    data = report_data(challenge(), board, evaluations=[row], attempts=[lost, attempt(row)], as_of=WHEN)
    assert [(f.verdict, f.evaluations, f.attempts) for f in data.failures] == [(Verdict.NODE_LOST, 0, 1)]
    assert (data.attempts, data.valid) == (2, 1)


def ended(seconds: float | None, machine: str, verdict: Verdict = Verdict.OK) -> AttemptRow:
    return attempt(evaluation("s-a", verdict), seconds=seconds, machine=machine)


def test_the_bill_is_hours_times_price_in_decimals() -> None:
    found = bill([ended(3600, "local"), ended(1800, "local", Verdict.NODE_LOST), ended(7200, "p3.2xlarge")], MACHINES)
    assert [(r.machine_type, r.attempts, r.hours, r.cost_usd) for r in found.rows] == [
        ("p3.2xlarge", 1, Decimal(2), Decimal("6.12")),
        ("local", 2, Decimal("1.5"), Decimal("0.79")),
    ]
    assert found.cost_usd == Decimal("6.91")
    assert found.hours_by_blame == {Blame.NONE: Decimal(3), Blame.HOST: Decimal("0.5")}


def test_the_bill_of_dfdc_is_that_of_its_hours_and_prices() -> None:
    """25,000 g4dn + 5,000 c4 + 800 p3 hours at the prices of 2020-08 come to $19,578."""
    machines = {
        name: MachineType(cpus=1, memory=1, price=Decimal(price))
        for name, price in (("g4dn.xlarge", "0.526"), ("c4.4xlarge", "0.796"), ("p3.2xlarge", "3.06"))
    }
    hours = {"g4dn.xlarge": 25_000, "c4.4xlarge": 5_000, "p3.2xlarge": 800}
    found = bill([ended(3600 * count, name) for name, count in hours.items()], machines)
    assert found.cost_usd == Decimal(19_578)


def test_a_machine_without_a_price_leaves_the_bill_open() -> None:
    found = bill([ended(3600, "local"), ended(3600, "elsewhere"), ended(None, "local")], MACHINES)
    assert found.cost_usd is None
    assert found.unmeasured == 1
    assert found.hours == 2


@pytest.mark.parametrize(
    "scores",
    [[0.5], [0.5, 0.5], [0.0, 0.0], [0.1, 0.2, 30.0], [1e-15] * 3 + [34.5], [0.69] * 500 + [5.0], list(range(100))],
)
def test_the_histogram_counts_every_score_once(scores: list[float]) -> None:
    for reference in (None, 0.693):
        edges, counts, _ = pictures._histogram(scores, reference)
        assert sum(counts) == len(scores)
        assert len(edges) == len(counts) + 1
        assert edges == sorted(set(edges))
        assert edges[0] <= min(scores)
        if reference is not None:
            assert edges[0] <= reference <= edges[-1] + 1e-9


def test_outliers_do_not_flatten_the_picture() -> None:
    edges, counts, gathered = pictures._histogram([0.4 + place / 100 for place in range(30)] + [34.5], 0.693)
    assert gathered
    assert edges[-1] < 2
    assert counts[-1] == 1


def test_pictures_without_data_are_left_out() -> None:
    board: Any = leaderboard("private_test", METRICS, [], [])
    assert pictures.score_distribution(board) is None
    assert pictures.shake_up(board) is None
    assert pictures.failures([]) is None
    assert pictures.memory([], 1) is None
    assert pictures.runtimes([], 1) is None


def test_machines_that_were_hired_are_on_the_bill_for_their_whole_lives() -> None:
    def at(minutes: float) -> datetime:
        return WHEN + timedelta(minutes=minutes)

    rows = [
        replace(attempt(evaluation(f"s-{place}")), node="i-1", started_at=at(begin), ended_at=at(begin + 20))
        for place, begin in enumerate((5, 30))
    ]
    lives = [
        MachineLife(node="i-1", machine_type="g4dn.xlarge", launched_at=at(0), seen_at=at(60), gone=True),
        MachineLife(node="i-2", machine_type="g4dn.xlarge (spot)", launched_at=at(0), seen_at=at(6), gone=True),
    ]
    prices = {
        name: MachineType(cpus=4, memory=2**34, price=Decimal("0.60")) for name in {x.machine_type for x in lives}
    }
    found = replace(example(), machine_bill=machine_bill(lives, rows, prices))
    text = " ".join(Page(render_report(found)).text.split())
    assert "The machines, from launch to end" in text
    # An hour and six minutes at 0.60: forty minutes of runs, five and six of boot, five idle, ten of tail.
    assert "boot and pull idle between idle tail" in text
    assert "$0.66" in text
    assert "s-0 0.333 h, $0.20; s-1 0.333 h, $0.20." in text
    assert "from launch to end" not in Page(render_report(example())).text
