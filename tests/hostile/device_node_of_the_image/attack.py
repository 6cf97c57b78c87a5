import os

from hostile import escaped, say

# A decoy: the character device of zeros, where an attacker would bring the host's disk.
try:
    escaped(os.read(os.open("/nodes/zero", os.O_RDONLY), 4))
except OSError as error:
    say(error)
say("tried")
