import os
import signal

from hostile import say

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
descriptor = os.open("/output/submission.csv", os.O_WRONLY | os.O_CREAT)
for size in (1 << 40, 1 << 33, 3 << 20):
    try:
        os.ftruncate(descriptor, size)
        say(size, "made")
        break
    except OSError as error:
        say(size, error)
say("tried")
