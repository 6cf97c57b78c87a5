with open("/output/submission.csv", "wb") as file:
    file.write(b"filename,label\na.mp4,1e999\nb.mp4,0.5\ndeeper/c.mp4,0.5\n")
