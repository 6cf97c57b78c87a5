with open("/output/submission.csv", "wb") as file:
    file.write(b"filename,label\na.mp4,0.1_0\nb.mp4,\xd9\xa0.\xd9\xa5\ndeeper/c.mp4,0.5\n")
