"""A manifest is read strictly and all of its problems are told; blind ids are stable, secret and bound to a key."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from referee.errors import ConfigurationError
from referee.images.source import Transport
from referee.submissions import (
    MAX_MANIFEST_BYTES,
    BlindKey,
    ManifestRow,
    read_manifest,
    single_submission,
)

_HEADER = "submission,team,image,kind\n"


def _read(tmp_path: Path, text: str | bytes, finals_per_team: int = 2) -> tuple[ManifestRow, ...]:
    path = tmp_path / "submissions.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_manifest(path, finals_per_team)


def _problems(tmp_path: Path, text: str | bytes, finals_per_team: int = 2) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        _read(tmp_path, text, finals_per_team)
    assert caught.value.hint
    return [line.removeprefix(f"{tmp_path}/submissions.csv: ") for line in caught.value.message.splitlines()]


def test_it_reads_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    rows = _read(
        tmp_path,
        "\ufeffsubmission,team,image,kind,public_score,public_runtime_seconds\r\n"
        'Öl-1 , "Team, with comma",a.tar,cpu,0.4231,3600\r\n\r\nb,Other,team/image:v1,gpu,,\r\n',
    )
    assert [(row.row, row.submission, row.team, row.kind) for row in rows] == [
        (2, "Öl-1", "Team, with comma", "cpu"),
        (4, "b", "Other", "gpu"),
    ]
    assert rows[0].image.path == tmp_path / "a.tar"
    assert (rows[0].public_score, rows[0].public_runtime_seconds) == (0.4231, 3600.0)
    assert (rows[1].image.transport, rows[1].public_score) == (Transport.NAME, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty; its first row names the columns: submission, team, image, kind"),
        (_HEADER, "there is no submission in it"),
        ("submission,team,image\na,t,x\n", "row 1: the column kind is missing"),
        ("submission,team,image,kind,color\na,t,x,cpu,red\n", 'row 1: there is no column "color"; valid columns are'),
        ("submission,team,image,kind,team\na,t,x,cpu,t\n", "row 1: the column team is there 2 times"),
        (_HEADER + "a,t,x\n", "row 2 has 3 cells, and the header has 4"),
        (_HEADER + "a,t,x,cpu,1\n", "row 2 has 5 cells, and the header has 4"),
        (_HEADER + ",t,x,cpu\n", "row 2, column submission: it is empty"),
        (_HEADER + "a,  ,x,cpu\n", "row 2, column team: it is empty"),
        (_HEADER + "a,t,,cpu\n", "row 2, column image: it is empty"),
        (_HEADER + "a,t,./nowhere.tar,cpu\n", "row 2, column image: there is no file"),
        (_HEADER + "a,t,x,CPU\n", 'row 2, column kind: "CPU" is not one of cpu, gpu'),
        (_HEADER + f"{'a' * 201},t,x,cpu\n", "row 2, column submission: it has 201 characters; 200 is the most"),
        (_HEADER + f"a,t,{'x' * 4097},cpu\n", "row 2, column image: it has 4097 characters; 4096 is the most"),
        (_HEADER + "a\x1b[31m,t,x,cpu\n", r'row 2, column submission: "a\u001b[31m" holds a control'),
        (_HEADER + "a\u202eb,t,x,cpu\n", "row 2, column submission"),
        (_HEADER + "a,t\u200b,x,cpu\n", "row 2, column team"),
        (_HEADER + "a,t,x,cpu\nb,u,x,cpu\na,v,x,cpu\n", 'row 4, column submission: "a" is in row 2 already'),
        (_HEADER + "e\u0301,t,x,cpu\n\u00e9,v,x,cpu\n", "row 3, column submission"),
        (
            _HEADER + "a,t,x,cpu\nb,t,x,cpu\nc,t,x,gpu\n",
            'column team: "t" has 3 submissions (rows 2, 3, 4); ',
        ),
        (_HEADER + 'a,"t,x,cpu\n', "row 2 is not CSV"),
        (_HEADER + 'a,"t"x,x,cpu\n', "row 2 is not CSV"),
        (_HEADER + "a,t\0,x,cpu\n", "line 2 holds a NUL byte"),
        (_HEADER.encode() + b"a,t\xff,x,cpu\n", "line 2 is not UTF-8"),
    ],
)
def test_each_way_of_being_wrong_has_its_sentence(text: str | bytes, problem: str, tmp_path: Path) -> None:
    assert any(each.startswith(problem) for each in _problems(tmp_path, text))


@pytest.mark.parametrize(
    "value", ["nan", "NaN", "inf", "-inf", "1e999", "1_0", "١", "0x10", "1,5", "abc", "1" * 65, "--1"]
)
def test_bad_numbers_are_refused(value: str, tmp_path: Path) -> None:
    header = "submission,team,image,kind,public_score,public_runtime_seconds\n"
    for row, column in ((f'a,t,x,cpu,"{value}",', "public_score"), (f'a,t,x,cpu,,"{value}"', "public_runtime_seconds")):
        problems = _problems(tmp_path, f"{header}{row}\n")
        assert len(problems) == 1
        assert problems[0].startswith(f"row 2, column {column}:")
    assert "not more than 0" in _problems(tmp_path, f"{header}a,t,x,cpu,,0\n")[0]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    problems = _problems(tmp_path, _HEADER + "a,,x,tpu\na,t,dir:x,cpu\n,,,\nshort\nb,t,x,cpu\nb,t,x,cpu\n")
    assert len(problems) == 5
    many = _problems(tmp_path, _HEADER + "".join(f"{number},t{number},x,tpu\n" for number in range(80)))
    assert len(many) == 51
    assert many[-1] == "and 30 more problems."


def test_a_manifest_is_a_plain_file_of_bounded_size(tmp_path: Path) -> None:
    assert "16 MiB" in _raised(tmp_path, b"x" * (MAX_MANIFEST_BYTES + 1))
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path / "fifo", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigurationError, match=r"not a plain file|cannot be read"):
            read_manifest(place, 2)


def _raised(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        _read(tmp_path, data)
    return caught.value.message


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300)
    | st.lists(st.lists(st.text(max_size=12), max_size=6).map(",".join), max_size=6).map(
        lambda rows: (_HEADER + "\n".join(rows)).encode()
    )
)
def test_nothing_but_sentences_comes_out_of_noise(data: bytes, tmp_path: Path) -> None:
    with contextlib.suppress(ConfigurationError):
        _read(tmp_path, data)


def test_one_image_on_the_command_line_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(b"")
    row = single_submission("mine.tar", tmp_path)
    assert (row.row, row.submission, row.team, row.kind) == (0, "mine.tar", "mine.tar", "cpu")
    assert single_submission("x/y:1", tmp_path, submission="s", team="t", kind="gpu").kind == "gpu"
    with pytest.raises(ConfigurationError, match="control"):
        single_submission("x/y:1", tmp_path, team="a\tb")


def test_blind_ids_are_stable_and_depend_on_the_key(tmp_path: Path) -> None:
    key = BlindKey.open(tmp_path / "state" / "blind.key")
    ids = key.submission_ids(["one", "two"])
    assert all(re.fullmatch(r"s-[0-9a-f]{6,8}", each) for each in ids.values())
    assert all(re.fullmatch(r"t-[0-9a-f]{6,8}", each) for each in key.team_ids(["one"]).values())
    assert BlindKey.open(tmp_path / "state" / "blind.key").submission_ids(["two", "one"]) == ids
    assert BlindKey(b"k" * 32).submission_ids(["one", "two"]) != ids
    assert key.team_ids(["one"])["one"][2:] != ids["one"][2:]


def test_colliding_ids_grow_and_given_ones_stay() -> None:
    key = BlindKey(b"k" * 32)
    names = [f"submission {number}" for number in range(20_000)]
    ids = key.submission_ids(names)
    assert len(set(ids.values())) == len(names)
    assert {len(each) for each in ids.values()} == {8, 9}  # of 20,000 names some 12 pairs share six digits
    grown = next(name for name, each in ids.items() if len(each) == 9)
    assert key.submission_ids([grown])[grown] == ids[grown][:8]
    later = key.submission_ids(["another", *names], taken=ids)
    assert {name: later[name] for name in names} == ids
    assert key.submission_ids(["x"], taken={"y": key.submission_ids(["x"])["x"]})["x"] != key.submission_ids(["x"])["x"]


def test_the_key_is_secret_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "blind.key"
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(BlindKey.open(path).commitment(b"0" * 16)[1])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["blind.key"]
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="other users"):
        BlindKey.open(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="not a blind key"):
        BlindKey.open(path)


def test_a_commitment_binds_to_the_key_and_does_not_show_it() -> None:
    key, other = BlindKey(b"a" * 32), BlindKey(b"b" * 32)
    salt, committed = key.commitment()
    assert key.matches(salt, committed)
    assert not other.matches(salt, committed)
    assert key.commitment()[0] != salt
