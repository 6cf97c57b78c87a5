import os

from hostile import escaped, say

written = 0
try:
    with open("/tmp/fill", "wb", buffering=0) as file:
        while written < 40 << 20:
            written += file.write(bytes(1 << 20))
    escaped(written)
except OSError:
    say(written >> 20, "MiB, then refused")
os.unlink("/tmp/fill")
made = 0
try:
    while made < 12_000:
        os.close(os.open(f"/tmp/{made}", os.O_CREAT | os.O_WRONLY))
        made += 1
    escaped("files", made)
except OSError as error:
    say(made, error)
