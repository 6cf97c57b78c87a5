"""Faults of an object store in a bucket, by the proxy before it: for a moment it is not as it should be."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import s3_world

_REPLIES_LOST = 0.3


class BucketFaults:
    """What can be done to a bucket.

    Args:
        proxy: before it.
        chance: for how long.
        used: whether a campaign uses it.
    """

    def __init__(self, proxy: s3_world.Proxy, chance: random.Random, *, used: bool = True) -> None:
        self._proxy, self._chance, self._used = proxy, chance, used
        self._threads: list[threading.Thread] = []

    def strikes(self) -> dict[str, Callable[[], bool]]:
        """By kind."""
        return {
            "object store refuses (503)": lambda: self._for_a_moment("down", True, False),
            "object store is slow": lambda: self._for_a_moment("hold_seconds", 0.1, 0.0),
            "object store loses replies": self._lose_replies,
        }

    def end(self) -> None:
        """Wait until all is as it should be."""
        for thread in self._threads:
            thread.join()

    def _lose_replies(self) -> bool:
        odds = random.Random(self._chance.random())  # noqa: S311 - asked by threads
        return self._for_a_moment(
            "lose", lambda method, _path: method in {"PUT", "GET"} and odds.random() < _REPLIES_LOST, _none_is_lost
        )

    def _for_a_moment(self, name: str, bad: object, good: object) -> bool:
        if not self._used:
            return False
        setattr(self._proxy, name, bad)
        rest = self._chance.uniform(0.2, 1.0)

        def mend() -> None:
            time.sleep(rest)
            setattr(self._proxy, name, good)

        self._threads.append(threading.Thread(target=mend))
        self._threads[-1].start()
        return True


def _none_is_lost(_method: str, _path: str) -> bool:
    return False
