held = []
for _ in range(64):
    held.append(bytearray(b"x" * (4 << 20)))
