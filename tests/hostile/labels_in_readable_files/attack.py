import os

from hostile import say

looked = 0
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [name for name in folders if name not in {"usr", "sys", "attacks"}]
    if folder == "/proc":
        folders[:] = ["self", "1"]
    if folder.count("/") > 5:
        folders.clear()
    for name in files:
        if "label" in name and not folder.startswith("/proc"):
            say(folder, name)
        if folder.startswith("/proc") and name not in {"environ", "mountinfo", "cmdline", "maps"}:
            continue
        try:
            descriptor = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_NONBLOCK)
            seen = os.read(descriptor, 1 << 20)
            os.close(descriptor)
        except OSError:
            continue
        looked += 1
        if b"canary" in seen:
            say(folder, name, seen[seen.index(b"canary") :][:60])
say("tried", looked)
