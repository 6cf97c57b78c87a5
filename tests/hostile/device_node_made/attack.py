import os
import stat

from hostile import escaped, escaped_at_runc, say

for kind, device in (
    (stat.S_IFCHR, os.makedev(1, 5)),
    (stat.S_IFBLK, os.makedev(7, 250)),
    (stat.S_IFCHR, os.makedev(0, 0)),
):
    for folder in ("/tmp", "/output", "/dev/shm", "/dev"):
        try:
            os.mknod(f"{folder}/node-{kind}-{device}", kind | 0o666, device)
            descriptor = os.open(f"{folder}/node-{kind}-{device}", os.O_RDONLY)
            # gVisor has one device of this number: its own source of zeros.
            (escaped_at_runc if device == os.makedev(1, 5) else escaped)(os.read(descriptor, 1))
        except OSError as error:
            say(error.errno)
say("tried")
