from hostile import escaped, raw, say

for call in (("shmget", 0x5EED, 4096, 0), ("msgget", 0x5EED, 0)):
    result, error = raw(*call)
    if not error:
        escaped(call[0], result)
    say(error)
