import fcntl
import os

from hostile import say

for path in ("/proc/self/fd/1", "/dev/stdout"):
    try:
        descriptor = os.open(path, os.O_WRONLY)
        fcntl.fcntl(descriptor, 1031, 1 << 20)
        os.write(descriptor, b"again\n")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.read(reader, 10)
    except OSError as error:
        say(error)
say("tried")
