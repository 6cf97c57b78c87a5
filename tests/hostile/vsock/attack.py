import socket

from hostile import escaped, say

for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        socket.socket(40, kind)
        escaped("AF_VSOCK opened")
    except OSError as error:
        say(error)
say("tried")
