"""The documentation is printed from the code, and what it tells people to type is understood."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from referee.cli import GROUP_OF, every_command
from referee.policy_document import document as verdicts

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]


def test_the_table_of_verdicts_is_the_one_that_the_program_reads() -> None:
    assert (ROOT / "docs" / "verdicts.md").read_text() == verdicts(), "run `make docs`"


def test_the_reference_of_commands_is_that_of_the_commands() -> None:
    # In a process of its own: what the program is called depends on how it was started.
    code = "from referee.cli.reference import document; print(document(), end='')"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == printed, "run `make docs`"


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                bare = line.split("#")[0].strip().removeprefix("$ ").removeprefix("../.venv/bin/")
                for part in bare.split("&&"):
                    if part.strip().startswith("referee ") and page.name != "cli.md":
                        found.append(part.strip())
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_documentation_is_understood(line: str) -> None:
    every_command().parse_args(shlex.split(line)[1:], print_error=False, exit_on_error=False)


def test_each_verb_is_found_in_its_group() -> None:
    # In a process of its own for each, since what one verb imports would serve the next.
    typed = {name for name in every_command() if not name.startswith("-")}
    assert set(GROUP_OF) == typed
    for group in sorted(set(GROUP_OF.values())):
        verbs = [verb for verb, of in GROUP_OF.items() if of == group]
        code = f"import referee.cli.{group}; from referee.cli.app import app; print(all(v in app for v in {verbs!r}))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert found == "True\n", f"not all of {verbs} are in {group}"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for name in re.findall(r"`make ([a-z0-9-]+)`", page.read_text()):
            assert name in targets, f"{page.name} names `make {name}`"
