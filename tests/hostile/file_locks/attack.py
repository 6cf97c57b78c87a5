import fcntl
import time

from hostile import say

held = [open("/data/a.mp4"), open("/data/b.mp4")]
fcntl.flock(held[0], fcntl.LOCK_EX)
try:
    fcntl.fcntl(held[1], fcntl.F_SETLEASE, fcntl.F_RDLCK)
except OSError as error:
    say(error)
fcntl.lockf(held[1], fcntl.LOCK_SH)
say("ready")
time.sleep(60)
