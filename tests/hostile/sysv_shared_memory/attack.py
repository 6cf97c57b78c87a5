import time

from hostile import raw, say

say(raw("shmget", 0x5EED, 4096, 0o1666), raw("msgget", 0x5EED, 0o1666))
say("ready")
time.sleep(60)
