import ctypes
import struct

from hostile import must_fail, say

handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
mount = ctypes.c_int()
must_fail("name_to_handle_at", -100, b"/tmp", ctypes.byref(handle), ctypes.byref(mount), 0)
must_fail("open_by_handle_at", -100, ctypes.byref(handle), 0)
say("tried")
