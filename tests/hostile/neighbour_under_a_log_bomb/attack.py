import os
import time

from hostile import say

say("ready")
part = bytes(1 << 16)
for _ in range(900):
    os.write(1, part)
time.sleep(0.5)
