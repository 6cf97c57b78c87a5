import ctypes
import struct

from hostile import escaped, raw, say

attributes = ctypes.create_string_buffer(struct.pack("qqqq", 0, 10, 8192, 0) + bytes(32))
result, error = raw("mq_open", b"mine", 0o102, 0o666, ctypes.byref(attributes))
if error in {"EMFILE", "ENOSPC", "ENOMEM"}:
    escaped("nothing is left for a neighbour:", error)
say(error or "ok")
