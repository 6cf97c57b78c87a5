import fcntl

from hostile import escaped, say

file = open("/data/a.mp4")
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    say("locked")
except OSError as error:
    escaped("the neighbour's lock is felt:", error)
