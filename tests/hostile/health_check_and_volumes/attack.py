import time

from hostile import escaped, say

targets = [line.split()[4] for line in open("/proc/self/mountinfo")]
if "/etc" in targets or targets.count("/data") != 1:
    escaped(targets)
time.sleep(0.3)
say("no mount but ours")
