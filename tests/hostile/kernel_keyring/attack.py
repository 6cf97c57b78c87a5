from hostile import escaped, raw, say

# keyctl(KEYCTL_JOIN_SESSION_KEYRING), add_key to it and to the user's keyring, link one to the other
for call in (("keyctl", 1, b"hostile-ring"), ("add_key", b"user", b"hostile-key", b"secret", 6, -4),
             ("add_key", b"user", b"hostile-key", b"secret", 6, -3), ("keyctl", 8, -3, -4)):  # fmt: skip
    result, error = raw(*call)
    if not error:
        escaped(call[0], "worked:", result)
    say(call[0], error)
say("tried")
