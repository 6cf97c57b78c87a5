import socket

from hostile import escaped, escaped_at_runc, say

opened = set()
for family in range(46):
    for kind in range(1, 6):
        try:
            socket.socket(family, kind)
            opened.add(family)
        except OSError:
            continue
if 16 in opened:
    escaped_at_runc("netlink")
if opened - {1, 2, 10, 16}:
    escaped("families", sorted(opened - {1, 2, 10, 16}))
for family in (16, 17, 38):
    try:
        socket.socketpair(family, socket.SOCK_STREAM)
        escaped("a pair of family", family)
    except OSError as error:
        say(error)
say("tried 46")
