import ctypes
import struct
import time

from hostile import raw, say

taken = 0
for size in (8192, 1024, 64):
    for _ in range(64):
        attributes = ctypes.create_string_buffer(struct.pack("qqqq", 0, 10, size, 0) + bytes(32))
        if raw("mq_open", f"q{taken}".encode(), 0o102, 0o666, ctypes.byref(attributes))[1]:
            break
        taken += 1
say("took", taken)
say("ready")
time.sleep(60)
