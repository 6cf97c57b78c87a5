import socket

from hostile import escaped, say

for address in ("169.254.169.254", "10.77.0.2"):
    made = socket.socket()
    made.settimeout(0.5)
    try:
        made.connect((address, 80))
        escaped("reached", address)
    except OSError as error:
        say(address, error.errno)
say("tried")
