import ctypes

from hostile import escaped, raw, say

context = ctypes.c_ulong(0)
result, error = raw("io_setup", 64, ctypes.byref(context))
if error in {"EAGAIN", "ENOMEM"}:
    escaped("nothing is left for a neighbour:", error)
say(error or "ok")
