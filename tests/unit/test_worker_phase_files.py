"""A phase's files on a node: fetched once, checked by digest, within their room, never taken from under an attempt."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from referee.challenge import load_challenge
from referee.errors import ConfigurationError
from referee.images.model import NoRoomError
from referee.objects import ObjectStore
from referee.phases import PhaseData, PhaseFile, file_list_digest, record_phase
from referee.worker.phase_files import NodeData, bring
from referee.worker.staging import StagingError, stage


def phase(folder: Path, **files: bytes) -> PhaseData:
    rows = []
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        rows.append(PhaseFile(name=name.replace("__", "/"), size_bytes=len(content), sha256=digest))
    return PhaseData(location=folder, digest=file_list_digest(tuple(rows)), files=tuple(rows))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


def test_what_was_brought_is_what_the_node_has(tmp_path: Path, objects: ObjectStore) -> None:
    data = phase(tmp_path / "phase", a=b"one", deeper__b=b"two", empty=b"", same=b"one")
    assert bring(data, objects) == 3  # equal files are one object
    assert bring(data, objects) == 0
    node = NodeData(tmp_path / "node", objects, 1000)
    with node.acquire(data) as there:
        assert there.location != data.location
        names = {path.relative_to(there.location).as_posix() for path in there.location.rglob("*") if path.is_file()}
        assert names == {"a", "deeper/b", "empty", "same"}
        assert stage(there, tmp_path / "node", "boot") == there.location


def test_it_is_fetched_once_for_many(tmp_path: Path, objects: ObjectStore) -> None:
    data = phase(tmp_path / "phase", a=b"one")
    bring(data, objects)
    opened: list[str] = []
    opening = objects.open
    objects.open = lambda key: (opened.append(key), opening(key))[1]  # type: ignore[method-assign]

    def use() -> None:
        with NodeData(tmp_path / "node", objects, 1000).acquire(data):
            pass

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


@pytest.mark.parametrize("there", [b"two", b"on", b"onee", None])
def test_an_object_that_is_not_the_recorded_file_is_not_taken(
    tmp_path: Path, objects: ObjectStore, there: bytes | None
) -> None:
    data = phase(tmp_path / "phase", a=b"one")
    if there is not None:
        objects.put_once(f"data/{data.files[0].sha256}", there)
    node = NodeData(tmp_path / "node", objects, 1000)
    with pytest.raises(StagingError), node.acquire(data):
        pass
    assert list((tmp_path / "node" / "data" / "phases").iterdir()) == []
    assert list((tmp_path / "node" / "data" / "fetching").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "", ".", "a//b", "a\0b"])
def test_no_name_leads_out_of_the_node_s_folder(tmp_path: Path, objects: ObjectStore, name: str) -> None:
    content = b"one"
    row = PhaseFile(name=name, size_bytes=3, sha256=hashlib.sha256(content).hexdigest())
    data = PhaseData(location=tmp_path, digest=file_list_digest((row,)), files=(row,))
    objects.put_once(f"data/{row.sha256}", content)
    with pytest.raises(StagingError, match="not the name of a file"), NodeData(tmp_path, objects, 1000).acquire(data):
        pass


def test_the_longest_unused_phase_makes_room_and_one_in_use_does_not(tmp_path: Path, objects: ObjectStore) -> None:
    first, second, third = (phase(tmp_path / str(n), a=bytes([n]) * 40) for n in range(3))
    for data in (first, second, third):
        bring(data, objects)
    node = NodeData(tmp_path / "node", objects, 100)
    with node.acquire(first) as one:
        with node.acquire(second) as two, pytest.raises(NoRoomError, match="in use"), node.acquire(third):
            pass
        with node.acquire(third):
            assert one.location.is_dir()
            assert not two.location.is_dir()


def test_a_phase_larger_than_the_room_is_refused(tmp_path: Path, objects: ObjectStore) -> None:
    data = phase(tmp_path / "phase", a=b"x" * 101)
    bring(data, objects)
    with pytest.raises(NoRoomError, match="more than"), NodeData(tmp_path / "node", objects, 100).acquire(data):
        pass


def test_a_file_that_changed_since_it_was_recorded_is_not_brought(tmp_path: Path, objects: ObjectStore) -> None:
    data = phase(tmp_path / "phase", a=b"one")
    (tmp_path / "phase" / "a").write_bytes(b"two")
    with pytest.raises(StagingError, match="changed"):
        bring(data, objects)


@pytest.mark.parametrize("name", [b"\xff.mp4", b"a\nb.mp4", b"\x1b[31m.mp4", b"\xff/a.mp4"])
def test_a_file_whose_name_is_no_text_is_refused_before_anything_is_run(tmp_path: Path, name: bytes) -> None:
    place = tmp_path / "data" / os.fsdecode(name)
    place.parent.mkdir(parents=True)
    (tmp_path / "data" / "a b\u00a0c.mp4").write_bytes(b"x")  # no-break spaces are ordinary in names
    place.write_bytes(b"x")
    (tmp_path / "challenge.toml").write_text('name = "small"\n[phases.test]\ndata = "data"\nvisibility = "private"\n')
    with pytest.raises(ConfigurationError, match="whose name is not text") as refused:
        record_phase(load_challenge(tmp_path), "test")
    assert str(refused.value).isprintable()


def test_what_is_there_already_is_asked_for_once_and_not_file_by_file(
    tmp_path: Path, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = phase(tmp_path / "phase", **{f"f{number}": str(number).encode() for number in range(50)})
    assert bring(data, objects) == 50
    for question in ("exists", "size", "get"):
        monkeypatch.setattr(objects, question, lambda *_, **__: pytest.fail("one question for each file"))
    assert bring(data, objects) == 0


@pytest.mark.parametrize("name", ["a.mp4", "deeper"])
def test_a_file_or_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "data" / "deeper").mkdir(parents=True)
    (tmp_path / "data" / "a.mp4").write_bytes(b"x")
    (tmp_path / "challenge.toml").write_text('name = "small"\n[phases.test]\ndata = "data"\nvisibility = "private"\n')
    challenge = load_challenge(tmp_path)

    place, attribute = (os, "scandir") if name == "deeper" else (Path, "open")  # root reads whatever its mode says
    real = getattr(place, attribute)

    def refused(path: Path, *more: object, **named: object) -> object:
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *more, **named)

    monkeypatch.setattr(place, attribute, refused)
    with pytest.raises(ConfigurationError, match=f"{name} cannot be read: Permission denied"):
        record_phase(challenge, "test")
