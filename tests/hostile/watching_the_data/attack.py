import os
import select

from hostile import escaped, raw, say

descriptor, error = raw("inotify_init1", 0)
say("inotify_init1", error or "ok")
if not error:
    import ctypes

    ctypes.CDLL(None).inotify_add_watch(ctypes.c_int(descriptor), b"/data", ctypes.c_uint(0xFFF))
    say("ready")
    if select.select([descriptor], [], [], 2)[0]:
        escaped("the neighbour opened", os.read(descriptor, 4096))
else:
    say("ready")
