with open("/output/submission.csv", "wb") as file:
    file.write(b"filename,label\nA.mp4,0.5\n b.mp4,0.5\ndeeper/./c.mp4,0.5\n")
