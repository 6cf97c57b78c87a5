"""The object store's promises, on a folder and on a bucket."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import s3_world
from referee.digests import digest_of
from referee.errors import ConfigurationError, ObjectStoreError
from referee.objects import AlreadyExistsError, ObjectMissingError, ObjectStore, ObjectTooLargeError


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "s3":
        service: s3_world.Service = request.getfixturevalue("s3")
        return ObjectStore(service.location(f"tests/{tmp_path.name}"))
    return ObjectStore(tmp_path / "objects" if request.param == "folder" else "memory:///")


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path)


def test_an_object_is_read_back_as_it_was_written(store: ObjectStore) -> None:
    data = bytes(range(256)) * 5000
    assert store.put_once("results/5f0c/result.json", data) is True
    assert store.get("results/5f0c/result.json") == data
    assert store.exists("results/5f0c/result.json")


def test_the_same_bytes_again_are_mine_and_other_bytes_are_refused(store: ObjectStore) -> None:
    store.put_once("claims/a.json", b"first")
    assert store.put_once("claims/a.json", b"first") is False
    for other in (b"other", b"longer than the first", b""):
        with pytest.raises(AlreadyExistsError, match="already written"):
            store.put_once("claims/a.json", other)
    assert store.get("claims/a.json") == b"first"


def test_of_many_writers_at_once_exactly_one_creates(store: ObjectStore) -> None:
    def claim(number: int) -> bool:
        try:
            return store.put_once("claims/a.json", b"%d" % number)
        except AlreadyExistsError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(64))) == 1


def test_put_replaces(store: ObjectStore) -> None:
    store.put("a", b"one")
    store.put("a", b"three")
    assert store.get("a") == b"three"


def test_what_is_missing_is_said_to_be_missing(store: ObjectStore) -> None:
    assert not store.exists("results/none")
    with pytest.raises(ObjectMissingError, match="no object results/none"):
        store.get("results/none")
    store.put("results", b"")
    with pytest.raises(ObjectMissingError):
        store.get("results/none")


def test_a_folder_is_not_an_object(store: ObjectStore) -> None:
    store.put("a/b", b"")
    assert not store.exists("a")


def test_an_object_above_the_limit_is_not_read(store: ObjectStore) -> None:
    store.put("a", b"12345")
    assert store.get("a", limit_bytes=5) == b"12345"
    with pytest.raises(ObjectTooLargeError, match="larger than 4 bytes"):
        store.get("a", limit_bytes=4)


def test_list_gives_the_keys_below_a_folder_in_order(store: ObjectStore) -> None:
    for key in ("b/2", "b/1/x", "a", "bb/3"):
        store.put(key, b"")
    assert store.list() == ["a", "b/1/x", "b/2", "bb/3"]
    assert store.list("b") == store.list("b/") == ["b/1/x", "b/2"]
    assert store.list("nothing") == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../b", "a//b", ".a", "a/.b", "a b", "ä", "a\n", "-rf"])
def test_a_key_that_could_mean_another_place_is_refused(store: ObjectStore, key: str) -> None:
    for call in (store.get, store.exists, lambda key: store.put(key, b""), lambda key: store.put_once(key, b"")):
        with pytest.raises(ObjectStoreError, match="not a key"):
            call(key)


def test_a_url_that_names_no_store_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match="not an object store"):
        ObjectStore("nonsense://bucket")


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    ObjectStore(f"file://{tmp_path}").put("a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_objects_and_folders_are_for_their_owner_alone(folder: ObjectStore, tmp_path: Path) -> None:
    folder.put_once("results/a", b"")
    assert (tmp_path / "results").stat().st_mode & 0o077 == 0
    assert (tmp_path / "results/a").stat().st_mode & 0o077 == 0


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    folder: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        order.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name.partition(' ')[0]}")
        sync(descriptor)

    def linked(*args: object, **kwargs: object) -> None:
        order.append("link")
        link(*args, **kwargs)  # type: ignore[arg-type] - handed on as it came

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    folder.put_once("results/a", b"x")
    # A file without a name reads as `#<inode>`.
    assert [step if not step.startswith("sync #") else "sync bytes" for step in order] == [
        f"sync {tmp_path.name}",
        "sync bytes",
        "link",
        "sync results",
    ]


def test_a_file_system_without_unnamed_files_serves_as_well(
    folder: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", without)
    assert folder.put_once("results/a", b"x") is True
    assert folder.put_once("results/a", b"x") is False
    with pytest.raises(AlreadyExistsError):
        folder.put_once("results/a", b"y")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["a"]


def test_a_full_disk_is_told_as_such(folder: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ObjectStoreError, match=r"No space left.*Make room") as raised:
        folder.put_once("a", b"x")
    assert isinstance(raised.value.__cause__, OSError)
    monkeypatch.undo()
    assert folder.list() == []


def test_a_writer_that_is_killed_leaves_a_whole_object_or_none(folder: ObjectStore, tmp_path: Path) -> None:
    data = b"x" * 2_000_000
    for step in range(20):
        child = os.fork()
        if child == 0:
            for number in range(1000):
                folder.put_once(f"r{step}/{number}", data)
            os._exit(0)
        time.sleep(0.002 * step)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not path.name.startswith(".")
            assert path.stat().st_size == len(data)


def test_a_digest_names_its_algorithm() -> None:
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
