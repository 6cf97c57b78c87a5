"""The object store behind the user's process: the same answers as without one, and nothing believed of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from referee.errors import ObjectStoreError
from referee.objects import AlreadyExistsError, ObjectMissingError, ObjectStore, ObjectTooLargeError
from referee.worker.broker import brokered, serve


@pytest.fixture
def mine(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects")


@contextmanager
def served(objects: ObjectStore) -> Iterator[ObjectStore]:
    users_end, workers_end = socket.socketpair()
    server = threading.Thread(target=serve, args=(users_end, objects))
    server.start()
    with users_end:
        with workers_end:
            yield brokered(workers_end)
        server.join(10)


@contextmanager
def saying(answer: bytes, *descriptors: int) -> Iterator[ObjectStore]:
    """A user's process that says this, whatever it is asked."""
    users_end, workers_end = socket.socketpair()
    with users_end, workers_end:
        if descriptors:
            socket.send_fds(users_end, [answer], list(descriptors))
        else:
            users_end.sendall(answer)
        users_end.shutdown(socket.SHUT_WR)
        yield brokered(workers_end)


def test_every_question_has_the_store_s_own_answer(mine: ObjectStore) -> None:
    large = os.urandom(3 << 20)
    with served(mine) as theirs:
        assert theirs.put_once("results/k/result.json", b"one")
        assert not theirs.put_once("results/k/result.json", b"one")  # a lost reply looks the same
        with pytest.raises(AlreadyExistsError):
            theirs.put_once("results/k/result.json", b"two")
        theirs.put("note", b"a")
        theirs.put("note", b"b")
        assert theirs.put_once("large", large)
        assert theirs.get("large") == mine.get("large") == large
        assert theirs.get("note") == b"b"
        assert (theirs.exists("note"), theirs.exists("other"), theirs.size("large")) == (True, False, len(large))
        assert theirs.list("results") == ["results/k/result.json"]
        with theirs.open("large") as source:
            assert source.read() == large
        with pytest.raises(ObjectMissingError):
            theirs.get("other")
        with pytest.raises(ObjectMissingError):
            theirs.open("other")
        with pytest.raises(ObjectTooLargeError):
            theirs.get("large", limit_bytes=100)


def test_many_threads_may_ask_at_once(mine: ObjectStore) -> None:
    for number in range(20):
        mine.put_once(f"data/{number}", str(number).encode() * 1000)
    wrong: list[int] = []
    with served(mine) as theirs:

        def read(number: int) -> None:
            for _ in range(20):
                with theirs.open(f"data/{number}") as source:
                    if source.read() != str(number).encode() * 1000:
                        wrong.append(number)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("key", ["../etc/passwd", "/etc/passwd", "a//b", ".hidden", "a b", ""])
def test_no_path_leads_out_of_the_store(mine: ObjectStore, key: str) -> None:
    with served(mine) as theirs, pytest.raises(ObjectStoreError):
        theirs.get(key)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no json\n",
        b"{}\n",
        b'{"size": -1}\n',
        b'{"size": "x"}\n',
        b'{"size": 99999999999999}\n',
        b'{"size": 10}\nshort',
        b'{"error": "exists", "size": 0}\n',
        b'{"error": 5, "message": null, "size": 0}\n',
    ],
)
def test_a_user_s_process_that_talks_nonsense_is_an_error_of_the_store(answer: bytes) -> None:
    with saying(answer) as theirs, pytest.raises(ObjectStoreError):
        theirs.get("note", limit_bytes=100)


def test_more_than_was_asked_for_is_not_taken() -> None:
    with saying(b'{"size": 1000}\n' + b"x" * 1000) as theirs, pytest.raises(ObjectTooLargeError):
        theirs.get("note", limit_bytes=100)


def test_only_ordinary_files_are_taken_for_objects(tmp_path: Path) -> None:
    """Reading of a pipe or a device would wait for ever, or do something."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        descriptor = os.open(path, os.O_RDWR if path.name == "fifo" else os.O_RDONLY)
        with saying(b'{"size": 0}\n', descriptor) as theirs, pytest.raises(ObjectStoreError, match="ordinary file"):
            theirs.open("blobs/x")
        os.close(descriptor)


def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with saying(b'{"size": 2}\nok', 0, 0, 0) as theirs:
        theirs.get("note")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
