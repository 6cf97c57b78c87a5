import socket

from hostile import escaped_at_runc, say

for protocol in range(23):
    try:
        socket.socket(16, socket.SOCK_RAW, protocol)
        escaped_at_runc("netlink", protocol)
    except OSError as error:
        say(protocol, error.errno)
say("tried")
