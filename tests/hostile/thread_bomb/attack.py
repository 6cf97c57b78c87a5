import threading
import time

from hostile import say

threading.stack_size(65536)
try:
    for _ in range(100):
        threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
except RuntimeError as error:
    say("stopped", error)
