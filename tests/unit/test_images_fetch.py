"""What is looked at before skopeo sees it costs no more than it is large, however often a stranger names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from image_layouts import MANIFEST_TYPE, Layout, digest, tar
from referee.errors import ImageError
from referee.images import fetch
from referee.images.locks import Workplace
from referee.images.source import Transport

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[fetch.Room]:
    with Workplace(tmp_path / "imports").room() as (folder, lock):
        yield fetch.Room(folder, lock, 1 << 20, "amd64", lambda _: None)


def _index_of(made: Layout, described: dict[str, Any], times: int) -> dict[str, Any]:
    return made.put(json.dumps({"schemaVersion": 2, "manifests": [described] * times}).encode(), _INDEX_TYPE)


def test_a_manifest_is_read_once_however_often_indexes_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Layout(tmp_path / "layout")
    config = {"mediaType": "x", "digest": digest(b"x"), "size": 1}
    manifest = made.put(json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode(), MANIFEST_TYPE)
    inner = _index_of(made, manifest, 100)
    made.index({"schemaVersion": 2, "manifests": [inner] * 100})
    read = []

    def counting(path: Path, what: str) -> bytes:
        read.append(what)
        return path.read_bytes()

    monkeypatch.setattr(fetch, "read_small", counting)
    fetch.check_layout(made.folder)
    assert sorted(read) == ["index.json", "manifest", "manifest"]


def test_what_an_archive_unpacks_to_is_counted_over_all_its_entries(room: fetch.Room, tmp_path: Path) -> None:
    bomb = zstandard.compress(bytes(900_000))
    archive = tmp_path / "bombs.tar"
    archive.write_bytes(tar(*[(f"{number}.layer", bomb) for number in range(3)], ("manifest.json", b"[]")))
    with pytest.raises(ImageError, match="unpacks to more than"):
        fetch._look_through(archive, room, Transport.DOCKER_ARCHIVE)
    archive.write_bytes(tar(("1.layer", bomb), ("2.layer", bomb), ("manifest.json", b"[]")))
    assert fetch._look_through(archive, room, Transport.DOCKER_ARCHIVE) is Transport.DOCKER_ARCHIVE
