"""What `bench_isolation.py` measures, run bare and inside sandboxes: prints the seconds of the named piece of work."""

# ruff: noqa: PTH116, PTH123, PTH208, PLC0415
# The plain calls are what is measured, and only one piece of work needs PyAV

import os
import sys
import time

READS = 1000
STATS = 20_000


def processor() -> None:
    total = 0
    for number in range(6_000_000):
        total += number * number % 7
    assert total


def reading() -> None:
    folder = sys.argv[2]
    for number in range(READS):
        with open(f"{folder}/files/{number}", "rb") as file:
            assert len(file.read()) == 100_000


def stats() -> None:
    path = f"{sys.argv[2]}/files/0"
    for _ in range(STATS):
        os.stat(path)


def video() -> None:
    import av

    frames = 0
    for name in sorted(os.listdir(f"{sys.argv[2]}/video")):
        with av.open(f"{sys.argv[2]}/video/{name}") as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")
                frames += 1
    assert frames


def nothing() -> None:
    pass


if __name__ == "__main__":
    work = globals()[sys.argv[1]]
    began = time.perf_counter()
    work()
    print(time.perf_counter() - began)
