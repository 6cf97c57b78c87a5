import multiprocessing
import threading
from multiprocessing import shared_memory

segment = shared_memory.SharedMemory(create=True, size=1 << 20)
segment.buf[:4] = b"data"
segment.close()
segment.unlink()
if __name__ == "__main__":
    with multiprocessing.Pool(4) as pool:
        assert sum(pool.map(abs, range(-100, 0))) == 5050
    threads = [threading.Thread(target=threading.active_count) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

with open("/output/submission.csv", "w") as file:
    file.write("filename,label\na.mp4,0.5\nb.mp4,0.5\ndeeper/c.mp4,0.5\n")
