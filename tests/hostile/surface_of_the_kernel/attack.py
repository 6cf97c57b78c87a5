import ctypes

from hostile import LEVEL, escaped, escaped_at_runc, must_fail, raw, say

space = ctypes.create_string_buffer(256)
here = ctypes.byref(space)
must_fail("userfaultfd", 1)
must_fail("bpf", 0, here, 64)
must_fail("perf_event_open", here, 0, -1, -1, 0)
must_fail("fanotify_init", 0, 0)
if LEVEL == "gvisor":  # it has a log of its own, of jokes
    read = raw("syslog", 3, here, 256)[0]
    if b"Starting gVisor" not in space.raw[:read]:
        escaped("a log that is not gVisor's", space.raw[:read])
else:
    must_fail("syslog", 10, 0, 0)
must_fail("kexec_load", 0, 0, 0, 0)
must_fail("init_module", here, 0, b"")
must_fail("swapon", b"/tmp/none", 0)
must_fail("quotactl", 0, 0, 0, 0)
must_fail("memfd_secret", 0)
if not raw("sync")[1]:  # the sentry has only the sandbox's own files to write
    escaped_at_runc("sync")
say("tried")
