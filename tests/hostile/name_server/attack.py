import socket

from hostile import escaped, say

say(open("/etc/resolv.conf").read())
try:
    say(socket.getaddrinfo("secret.decoy.invalid", 80))
    escaped("a name was resolved")
except OSError as error:
    say(error)
question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x06secret\x05decoy\0\0\x01\0\x01"
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    made = socket.socket(socket.AF_INET, kind)
    made.settimeout(0.5)
    try:
        made.connect(("10.77.0.2", 53))
        made.send(question)
        escaped("a question was sent")
    except OSError as error:
        say(error)
say("tried")
