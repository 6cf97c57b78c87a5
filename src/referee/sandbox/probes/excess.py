"""Try, from inside a sandbox, to use more than its limits; each way is named by the first argument."""

import os
import signal
import sys
import time


def memory() -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(1) * (4 << 20)))


def false_status() -> None:
    os._exit(137)


def cpu() -> None:
    for _ in range(3):
        if os.fork() == 0:
            break
    while True:
        pass


def processes() -> None:
    made = 0
    while made < 4096:
        try:
            if os.fork() == 0:
                time.sleep(3600)
        except BlockingIOError:
            break
        made += 1
    print(made)


def endless() -> None:
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            time.sleep(3600)
    while True:
        time.sleep(3600)


def log() -> None:
    line = b"x" * 65536
    while True:
        os.write(1, line)


def output() -> None:
    print(_fill("/output"))
    print(_count("/output"))


def scratch() -> None:
    print(_fill("/tmp"), _fill("/dev/shm"))
    try:
        with open("/tmp/sparse", "wb") as file:
            file.truncate(1 << 40)
        print("sparse")
    except OSError as error:
        print(error.errno)


def _fill(folder: str) -> int:
    written = 0
    with open(folder + "/fill", "wb", buffering=0) as file:
        try:
            while written < 1 << 30:
                written += file.write(b"x" * 65536)
        except OSError:
            return written
    return written


def _count(folder: str) -> int:
    made = 0
    try:
        while made < 1 << 20:
            os.close(os.open(f"{folder}/{made}", os.O_CREAT | os.O_WRONLY))
            made += 1
    except OSError:
        return made
    return made


if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    globals()[sys.argv[1]]()
