import os
import time

from hostile import EXTRA_MIB

for _ in range(24 + EXTRA_MIB // 8):
    if os.fork() == 0:
        held = bytearray(b"x" * (8 << 20))
        time.sleep(5 if EXTRA_MIB else 1)  # until all of them hold theirs
        os._exit(0)
try:
    while True:
        os.wait()
except ChildProcessError:
    raise SystemExit(1) from None
