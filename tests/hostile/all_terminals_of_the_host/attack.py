import os
import time

from hostile import escaped_at_runc, say

taken = 0
try:
    while taken < 300:
        os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        taken += 1
except OSError as error:
    say(error)
say("took", taken)
if taken >= 200:
    escaped_at_runc("a terminal for everyone of", taken)
time.sleep(0.3)  # long enough to be seen from outside
