import socket

from hostile import escaped, say

for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    try:
        socket.socket(socket.AF_UNIX, kind).connect("\0hostile-decoy")
        escaped("connected")
    except OSError as error:
        say(error)
say("tried")
