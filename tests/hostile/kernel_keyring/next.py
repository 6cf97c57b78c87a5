from hostile import escaped, raw, say

for call in (("keyctl", 10, -4, b"user", b"hostile-key", 0), ("request_key", b"user", b"hostile-key", 0, -4)):
    result, error = raw(*call)
    if not error:
        escaped("found the key of another", result)
    say(call[0], error)
