import socket

from hostile import EXTRA_MIB, escaped, say

sent, held = 0, []
for _ in range(100):
    reader, writer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        reader.bind(("127.0.0.1", 0))
        writer.connect(reader.getsockname())
        writer.setblocking(False)
        for _ in range(16):
            sent += writer.send(b"x" * 60_000)
    except OSError as error:
        say(error)
        break
    held += [reader, writer]
# What arrived and still waits is held by the kernel.
waiting = 0
for reader in held[::2]:
    reader.setblocking(False)
    try:
        while True:
            waiting += len(reader.recv(65_536))
    except OSError:
        continue
say("sent", sent, "waiting", waiting)
if waiting > (32 + EXTRA_MIB) << 20:
    escaped("the kernel held", waiting)
