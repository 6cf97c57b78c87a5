import ctypes
import time

from hostile import raw, say

timer = ctypes.c_int()
taken, until = 0, time.monotonic() + 8
while taken < 200_000 and time.monotonic() < until and not raw("timer_create", 1, 0, ctypes.byref(timer))[1]:
    taken += 1
say("took", taken)
say("ready")
time.sleep(1.5)
