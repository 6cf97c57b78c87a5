import ctypes

from hostile import escaped_at_runc, raw, say

parameters = ctypes.create_string_buffer(120)
result, error = raw("io_uring_setup", 4, ctypes.byref(parameters))
if not error:
    escaped_at_runc("a ring", result)
say("io_uring_setup", error or "ok")
