import socket

from hostile import escaped, say

for family, kind, protocol in ((2, 3, 255), (2, 3, 1), (10, 3, 58), (17, 3, 0x0300), (17, 2, 0x0300)):
    try:
        socket.socket(family, kind, protocol)
        escaped("raw socket", family, kind)
    except OSError as error:
        say(error)
say("tried")
