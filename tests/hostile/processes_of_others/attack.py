import os

from hostile import escaped, say

seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
if seen != [os.getpid()] or os.getpid() != 1:
    escaped("processes", seen)
if os.getppid():
    escaped("parent", os.getppid())
for number in (0,):
    try:
        # Signal 0 asks only whether one could.
        os.kill(os.getppid() or 2, number)
        escaped("could signal the parent")
    except OSError as error:
        say(error)
say("parent", os.getppid())
