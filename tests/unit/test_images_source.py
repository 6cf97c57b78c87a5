"""An image is named as a path, a skopeo source or a name; everything else is a sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_layouts import Layout
from referee.errors import ConfigurationError
from referee.images.source import ImageSource, Transport, parse_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Layout(tmp_path / "layout")
    (tmp_path / "plain").mkdir()
    for name in ("image.tar", "a:colon.tar", "python"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "transport", "path", "reference"),
    [
        ("layout", Transport.OCI, "layout", ""),
        ("./layout", Transport.OCI, "layout", ""),
        ("oci:layout", Transport.OCI, "layout", ""),
        ("oci:layout:v1", Transport.OCI, "layout", "v1"),
        ("image.tar", Transport.ARCHIVE, "image.tar", ""),
        ("a:colon.tar", Transport.ARCHIVE, "a:colon.tar", ""),
        ("oci-archive:image.tar:v1", Transport.OCI_ARCHIVE, "image.tar", "v1"),
        ("oci-archive:a:colon.tar", Transport.OCI_ARCHIVE, "a:colon.tar", ""),
        ("docker-archive:image.tar:team/x:1", Transport.DOCKER_ARCHIVE, "image.tar", "team/x:1"),
        ("python", Transport.ARCHIVE, "python", ""),
        ("python:3.11-slim", Transport.NAME, None, "python:3.11-slim"),
        ("localhost:5000/team/x", Transport.NAME, None, "localhost:5000/team/x"),
        ("docker://team/x@sha256:" + "0" * 64, Transport.REGISTRY, None, "team/x@sha256:" + "0" * 64),
        ("containers-storage:localhost/x:1", Transport.STORAGE, None, "localhost/x:1"),
        ("containers-storage:[overlay@/a+/b]x", Transport.STORAGE, None, "[overlay@/a+/b]x"),
    ],
)
def test_it_is_understood(text: str, transport: Transport, path: str | None, reference: str, folder: Path) -> None:
    source = parse_source(text, folder)
    assert source == ImageSource(transport=transport, path=folder / path if path else None, reference=reference)
    assert parse_source(str(source), folder) == source


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not an image"),
        ("a\nb", "not an image"),
        ("x" * 5000, "not an image"),
        ("x" * 300 + ".tar", "cannot be looked at|no file"),
        ("plain", "no OCI layout"),
        ("oci:nowhere:v1", "no folder"),
        ("oci-archive:nowhere.tar", "no file"),
        ("/nowhere", "no file"),
        ("missing.tar.gz", "no file"),
        ("docker-daemon:x:1", "not read from `docker-daemon:`"),
        ("dir:/x", "not read from `dir:`"),
        ("docker://--flag", "neither a path"),
        ("docker://UPPER/Case", "neither a path"),
        ("containers-storage:-x", "neither a path"),
        ("two words", "neither a path"),
        ("ftp://x/y", "neither a path"),
    ],
)
def test_it_is_refused(text: str, word: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        parse_source(text, folder)
    assert "docker-archive:FILE" in caught.value.hint


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=80)
    | st.sampled_from(["oci:", "docker://", "containers-storage:"]).flatmap(
        lambda prefix: st.text(max_size=40).map(prefix.__add__)
    )
)
def test_nothing_but_a_sentence_comes_out_of_noise(text: str, folder: Path) -> None:
    with contextlib.suppress(ConfigurationError):
        parse_source(text, folder)
