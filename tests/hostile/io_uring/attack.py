import ctypes

from hostile import must_fail

parameters = ctypes.create_string_buffer(120)
must_fail("io_uring_setup", 4, ctypes.byref(parameters))
