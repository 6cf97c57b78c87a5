import ctypes
import os
import signal
import struct
import time

from hostile import escaped, escaped_at_runc, raw, say

child = os.fork()
if child == 0:
    time.sleep(5)
    os._exit(0)
for name, arguments in (("attach", (16, child, 0, 0)), ("seize", (0x4206, child, 0, 0))):
    result, error = raw("ptrace", *arguments)
    if not error:
        escaped_at_runc("ptrace", name)
    say(name, error)
buffer = ctypes.create_string_buffer(8)
vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), 8), 16)
result, error = raw("process_vm_readv", os.getpid(), ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)
if not error:
    escaped("process_vm_readv")
descriptor, error = raw("pidfd_open", child, 0)
result, error = raw("pidfd_getfd", descriptor, 1, 0)
if not error:
    escaped("pidfd_getfd")
os.kill(child, signal.SIGKILL)
say("tried")
