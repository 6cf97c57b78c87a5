import os
import time

for _ in range(24):
    if os.fork() == 0:
        held = bytearray(b"x" * (8 << 20))
        time.sleep(1)
        os._exit(0)
try:
    while True:
        os.wait()
except ChildProcessError:
    raise SystemExit(1) from None
