import os

from hostile import escaped, say

taken = 0
try:
    while taken < 300:
        os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        taken += 1
except OSError as error:
    say(error)
say("took", taken)
if taken >= 200:
    escaped("a terminal for everyone of", taken)
