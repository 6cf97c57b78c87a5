from hostile import EXTRA_MIB

held = []
for _ in range(64 + EXTRA_MIB // 4):
    held.append(bytearray(b"x" * (4 << 20)))
