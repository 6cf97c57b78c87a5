import os

from hostile import say

say("ready")
for _ in range(40):
    if os.fork() == 0:
        held = [bytearray(b"x" * (1 << 20)) for _ in range(80)]
        os._exit(0)
    os.wait()
while True:
    bytearray(1 << 20)
