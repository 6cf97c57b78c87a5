"""`docs/cli.md`: every command and option, printed from the commands themselves (`make docs`)."""

from __future__ import annotations

from referee.cli import every_command

_HEAD = """# The command line

<!-- Printed by `make docs` from the commands themselves. -->

"""


def document() -> str:
    """The reference as Markdown."""
    text = every_command().generate_docs(output_format="markdown", heading_level=2, usage_name="referee")
    return _HEAD + "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"
