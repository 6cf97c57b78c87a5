import socket

from hostile import escaped, say

tried = 0
for address in ("127.0.0.1", "::1", "10.77.0.1", "127.0.1.1"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind, port in ((socket.SOCK_STREAM, 7001), (socket.SOCK_DGRAM, 7002)):
        tried += 1
        try:
            made = socket.socket(family, kind)
            made.settimeout(0.5)
            made.connect((address, port))
            made.send(b"out")
            if kind == socket.SOCK_STREAM:
                escaped("connected to", address)
        except OSError as error:
            say(address, error.errno)
say("tried", tried)
