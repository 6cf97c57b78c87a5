import os

from hostile import say

say("ready")
while True:
    try:
        if os.fork() == 0 and os.getpid() % 2:
            os._exit(0)
    except OSError:
        continue
