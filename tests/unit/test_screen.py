"""What is printed cannot steer a terminal, whoever wrote it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from referee.cli import screen
from referee.errors import CheckFailedError

HOSTILE = "a\x1b[2J\x9b31m\x7f\u202eb\u2066\u200b\ud800\U000e0041\r"


def harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def test_lines_tables_and_errors_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    screen.say(HOSTILE)
    screen.note(HOSTILE)
    screen.print_table([HOSTILE, "n>"], [(HOSTILE, "1")], title=HOSTILE)
    screen.print_error(CheckFailedError(HOSTILE, hint=HOSTILE))
    said = capsys.readouterr()
    assert "\\x1b[2J" in said.out
    assert "\\x1b[2J" in said.err
    assert harmless(said.out)
    assert harmless(said.err)


@given(st.text(st.characters()) | st.just(HOSTILE))
def test_json_is_inert_and_says_the_same(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("sys.stdout.write", written.append)
        screen.print_json({text: [text, 1.5, None]})
        screen.print_json_line({text: text})
    document, line = written
    assert harmless(document)
    assert harmless(line)
    assert line.count("\n") == 1
    assert json.loads(document) == {text: [text, 1.5, None]}
    assert json.loads(line) == {text: text}
