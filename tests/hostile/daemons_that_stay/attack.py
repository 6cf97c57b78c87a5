import os
import signal
import time

from hostile import say

for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    continue
            for descriptor in range(3):
                os.close(descriptor)
            turn = 0
            while True:
                turn += 1
                with open(f"/output/submission.csv.{os.getpid()}", "w") as file:
                    file.write(str(turn))
                os.rename(file.name, "/output/submission.csv")
        os._exit(0)
time.sleep(0.3)
say("left")
os.unlink("/output/submission.csv")
