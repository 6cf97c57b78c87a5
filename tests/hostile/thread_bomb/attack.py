import threading
import time

from hostile import EXTRA_PIDS, say

threading.stack_size(65536)
try:
    for _ in range(100 + EXTRA_PIDS):
        threading.Thread(target=time.sleep, args=(5.0 if EXTRA_PIDS else 0.5,), daemon=True).start()
except RuntimeError as error:
    say("stopped", error, threading.active_count())
