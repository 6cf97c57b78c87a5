import os

from hostile import say

say("ready")
for _ in range(20):
    if os.fork() == 0:
        while True:
            pass
while True:
    pass
