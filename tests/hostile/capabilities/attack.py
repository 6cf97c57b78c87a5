import os
import resource

from hostile import escaped, say

for line in open("/proc/self/status"):
    if line.startswith("Cap") and int(line.split()[1], 16):
        escaped(line.strip())
open("/tmp/mine", "w").close()
for name, act in {
    "chown": lambda: os.chown("/tmp/mine", 4242, 4242),
    "setuid": lambda: os.setuid(4242),
    "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
    "realtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5)),
    "rlimit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100_000, 100_000)),
}.items():
    try:
        act()
        escaped(name)
    except (OSError, ValueError) as error:
        say(name, error)
say("tried")
