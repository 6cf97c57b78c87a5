import os
import time

from hostile import say

children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            pass
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
say("worked")
