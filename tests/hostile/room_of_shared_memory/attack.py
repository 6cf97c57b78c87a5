from hostile import escaped, say

written = 0
try:
    with open("/dev/shm/fill", "wb", buffering=0) as file:
        while written < 32 << 20:
            written += file.write(bytes(1 << 20))
    escaped(written)
except OSError:
    say("full", written >> 20, "MiB")
