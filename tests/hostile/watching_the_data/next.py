for _ in range(20):
    open("/data/a.mp4").read()
