import socket

from hostile import escaped, say

try:
    made = socket.socket(socket.AF_UNIX)
    made.connect("\0meet-me")
    escaped(made.recv(10))
except OSError as error:
    say(error)
