"""The object store on S3's API over HTTP: what is asked of the service, and what becomes of replies that are lost."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import s3_world
from referee.errors import ConfigurationError, ObjectStoreError
from referee.objects import AlreadyExistsError, ObjectMissingError, ObjectStore, bucket_location


@pytest.fixture
def proxy(s3: s3_world.Service) -> Iterator[s3_world.Proxy]:
    with s3_world.proxy(s3) as made:
        yield made


@pytest.fixture
def store(s3: s3_world.Service, proxy: s3_world.Proxy, tmp_path: Path) -> ObjectStore:
    return ObjectStore(s3.location(tmp_path.name, proxy.endpoint))


def lose(proxy: s3_world.Proxy, method: str, times: int, part: str = "") -> None:
    """Lose the next answers to such requests."""
    left = [times]

    def decide(seen: str, path: str) -> bool:
        if seen == method and part in path and left[0]:
            left[0] -= 1
            return True
        return False

    proxy.lose = decide


def test_the_stand_in_honours_conditional_writes(store: ObjectStore, proxy: s3_world.Proxy) -> None:
    """What the other tests rest on: the service, not the client, refuses the second write."""
    store.put_once("a", b"first")
    with pytest.raises(AlreadyExistsError):
        store.put_once("a", b"other")
    assert [status for method, _, status in proxy.seen if method == "PUT"] == [200, 412]


def test_what_is_written_once_is_asked_for_as_such_and_what_is_not_is_not(
    store: ObjectStore, proxy: s3_world.Proxy
) -> None:
    store.put("a", b"one")
    store.put("a", b"three")
    assert [status for method, _, status in proxy.seen if method == "PUT"] == [200, 200]
    assert store.get("a") == b"three"


def test_a_reply_that_is_lost_after_the_write_is_found_to_be_ones_own(
    store: ObjectStore, proxy: s3_world.Proxy
) -> None:
    lose(proxy, "PUT", 1)
    # The client repeats the request by itself, is refused, and what is there is its own.
    assert store.put_once("results/a", b"mine") is False
    assert proxy.lost == 1
    assert [status for method, _, status in proxy.seen if method == "PUT"] == [200, 412]
    assert store.get("results/a") == b"mine"


def test_after_a_lost_reply_the_claim_of_another_is_not_taken_for_ones_own(
    store: ObjectStore, proxy: s3_world.Proxy
) -> None:
    store.put_once("claims/a", b"another's")
    lose(proxy, "PUT", 1)
    with pytest.raises(AlreadyExistsError):
        store.put_once("claims/a", b"my own---")
    assert store.get("claims/a") == b"another's"


def test_replies_to_reading_that_are_lost_are_asked_for_again(store: ObjectStore, proxy: s3_world.Proxy) -> None:
    store.put_once("a", b"content")
    lose(proxy, "GET", 2)
    assert store.get("a") == b"content"
    assert proxy.lost == 2


def test_a_service_that_refuses_for_a_moment_is_asked_again(store: ObjectStore, proxy: s3_world.Proxy) -> None:
    proxy.down = True
    mending = threading.Timer(0.3, setattr, (proxy, "down", False))
    mending.start()
    store.put_once("a", b"content")
    mending.join()
    assert store.get("a") == b"content"
    assert proxy.refused > 0


def test_of_many_writers_at_once_one_creates_even_if_replies_are_lost(
    store: ObjectStore, proxy: s3_world.Proxy
) -> None:
    lose(proxy, "PUT", 5)

    def claim(number: int) -> bytes | None:
        mine = b"%02d" % number
        try:
            store.put_once("claims/a", mine)
        except AlreadyExistsError:
            return None
        return mine

    with ThreadPoolExecutor(8) as pool:
        winners = [won for won in pool.map(claim, range(24)) if won]
    assert winners == [store.get("claims/a")]


def test_a_large_file_goes_and_comes_in_parts(store: ObjectStore, proxy: s3_world.Proxy, tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(os.urandom((20 << 20) + 17))
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert store.put_file(f"blobs/sha256/{wanted}", path) is True
    assert sum("partNumber" in seen for _, seen, _ in proxy.seen) == 3
    with store.open(f"blobs/sha256/{wanted}") as file:
        start = file.read(10)
        digest = hashlib.sha256(start)
        while part := file.read(1 << 20):
            digest.update(part)
    assert digest.hexdigest() == wanted
    assert sum(method == "GET" for method, _, _ in proxy.seen) == 3
    assert store.put_file(f"blobs/sha256/{wanted}", path) is False


@pytest.mark.parametrize("part", ["partNumber=2", "uploadId"])
def test_lost_replies_to_the_parts_of_a_file(
    store: ObjectStore, proxy: s3_world.Proxy, tmp_path: Path, part: str
) -> None:
    path = tmp_path / "layer"
    path.write_bytes(os.urandom((9 << 20) + 1))
    lose(proxy, "PUT" if "part" in part else "POST", 1, part)
    for _ in range(2):
        try:
            store.put_file("blobs/a", path)
        except ObjectStoreError:
            continue
        break
    assert proxy.lost == 1
    assert store.get("blobs/a") == path.read_bytes()


def test_a_reader_is_told_when_the_service_goes_away(s3: s3_world.Service, tmp_path: Path) -> None:
    with s3_world.proxy(s3) as proxy:
        store = ObjectStore(s3.location(tmp_path.name, proxy.endpoint))
        path = tmp_path / "layer"
        path.write_bytes(os.urandom(9 << 20))
        store.put_file("blobs/a", path)
        file = store.open("blobs/a")
        file.read(1)
        proxy.lose = lambda _method, _path: True
        with pytest.raises(ObjectStoreError, match="failed at blobs/a"):
            file.read()
        file.close()


def test_what_is_missing_is_said_to_be_missing(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError, match="no object blobs/none"):
        store.open("blobs/none")


def test_a_service_that_replaces_what_is_to_be_written_once_is_refused(
    store: ObjectStore, proxy: s3_world.Proxy
) -> None:
    for _ in range(2):
        store.require_create_only()
    proxy.drop_header = "If-None-Match"
    with pytest.raises(ConfigurationError, match="ignores If-None-Match") as caught:
        ObjectStore(store.location.replace("?", "/other?")).require_create_only()
    assert "conditional writes" in caught.value.hint


def test_a_folder_needs_no_such_proof_but_has_it(tmp_path: Path) -> None:
    ObjectStore(tmp_path).require_create_only()


def test_credentials_are_not_part_of_a_location(s3: s3_world.Service, tmp_path: Path) -> None:
    location = bucket_location("s3://b/p", region="eu-central-1", endpoint="https://s3.example:9000")
    assert location == "s3://b/p?region=eu-central-1&endpoint=https%3A%2F%2Fs3.example%3A9000"
    assert bucket_location("s3://b/p") == "s3://b/p"
    with pytest.raises(ConfigurationError, match="no option 'secret_access_key'"):
        ObjectStore("s3://b/p?secret_access_key=x")


def test_a_bucket_that_is_not_there_is_said_to_be_the_matter(store: ObjectStore, s3: s3_world.Service) -> None:
    other = ObjectStore(store.location.replace(f"/{s3_world.BUCKET}/", "/nowhere/"))
    with pytest.raises(ObjectStoreError, match="nowhere"):
        other.put_once("a", b"")


def test_a_stream_of_a_bucket_has_no_descriptor(store: ObjectStore) -> None:
    store.put_once("a", b"x")
    with store.open("a") as file, pytest.raises(io.UnsupportedOperation):
        file.fileno()
