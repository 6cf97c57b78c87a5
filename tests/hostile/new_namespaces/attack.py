import ctypes
import os
import struct
import threading

from hostile import escaped_at_runc, raw, say

FLAGS = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000,
         "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80}  # fmt: skip
for name, flag in FLAGS.items():
    for flags in (flag, flag | FLAGS["user"]):
        child = os.fork()
        if child == 0:
            result, error = raw("unshare", flags)
            os._exit(0 if error else 9)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9:
            escaped_at_runc("unshare", name)
result, error = raw("clone", FLAGS["user"] | 17, 0, 0, 0, 0)
if result == 0 and not error:
    os._exit(0)
if not error:
    escaped_at_runc("clone made a user namespace")
say("clone", error)
arguments = ctypes.create_string_buffer(struct.pack("QQQQQQQQ", FLAGS["user"], 0, 0, 0, 17, 0, 0, 0), 64)
result, error = raw("clone3", ctypes.byref(arguments), 64)
if result == 0 and not error:
    os._exit(0)
if not error:
    escaped_at_runc("clone3 made a user namespace")
say("clone3", error)
thread = threading.Thread(target=say, args=("threads still work",))
thread.start()
thread.join()
say("tried")
