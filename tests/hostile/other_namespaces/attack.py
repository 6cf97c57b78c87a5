import os

from hostile import escaped, raw, say

for name in os.listdir("/proc/1/ns"):
    if name in {"user", "time", "time_for_children", "pid_for_children"}:
        continue
    try:
        descriptor = os.open(f"/proc/1/ns/{name}", os.O_RDONLY)
    except OSError as error:
        say(error)
        continue
    result, error = raw("setns", descriptor, 0)
    if not error:
        escaped("setns", name)
    say(name, error)
say("tried")
