import time

from hostile import raw, say

say(raw("mq_open", b"meet-me", 0o102, 0o666, 0))
say("ready")
time.sleep(60)
