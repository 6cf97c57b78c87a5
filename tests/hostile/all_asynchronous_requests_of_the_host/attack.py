import ctypes
import time

from hostile import raw, say

taken = 0
for size in (32768, 8192, 1024, 64, 1):
    for _ in range(64):
        context = ctypes.c_ulong(0)
        if raw("io_setup", size, ctypes.byref(context))[1]:
            break
        taken += size
say("took", taken)
say("ready")
time.sleep(60)
