import os
import tempfile

# A fixed amount of work of every kind that a neighbour could disturb.
for turn in range(4):
    block = bytearray(4 << 20)
    for place in range(0, len(block), 4096):
        block[place] = turn
    total = sum(number * number for number in range(150_000))
    with tempfile.TemporaryFile() as file:
        file.write(block[: 1 << 20])
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
print("worked", total)
