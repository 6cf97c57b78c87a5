import ctypes

from hostile import escaped, raw, say

timer = ctypes.c_int()
result, error = raw("timer_create", 1, 0, ctypes.byref(timer))
if error:
    escaped("nothing is left for a neighbour:", error)
say("ok")
