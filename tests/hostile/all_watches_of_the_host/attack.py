import time

from hostile import raw, say

taken = 0
while not raw("inotify_init1", 0)[1]:
    taken += 1
say("took", taken)
say("ready")
time.sleep(60)
