import socket
import time

from hostile import say

made = socket.socket(socket.AF_UNIX)
made.bind("\0meet-me")
made.listen()
say("ready")
made.settimeout(2)
try:
    made.accept()[0].send(b"secret")
    time.sleep(0.2)
except OSError:
    pass
