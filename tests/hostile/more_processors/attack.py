import os
import time

from hostile import say

say("worked")
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        while time.process_time() < 0.6:
            pass
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
