from hostile import must_fail, say

RDONLY, REMOUNT, BIND, DETACH = 1, 32, 4096, 2
must_fail("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
must_fail("mount", b"none", b"/", b"", REMOUNT | BIND, 0)
must_fail("mount", b"none", b"/data", b"", REMOUNT | BIND, 0)
must_fail("mount", b"none", b"/output", b"", REMOUNT | BIND, 0)
must_fail("mount", b"proc", b"/tmp", b"proc", 0, 0)
must_fail("umount2", b"/data", DETACH)
must_fail("umount2", b"/proc/loadavg", DETACH)
must_fail("fsopen", b"tmpfs", 0)
must_fail("open_tree", -100, b"/data", 1)
must_fail("chroot", b"/tmp")
must_fail("pivot_root", b"/tmp", b"/tmp")
say("tried")
