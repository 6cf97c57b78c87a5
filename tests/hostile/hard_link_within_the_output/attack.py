import os

with open("/output/other", "w") as file:
    file.write("filename,label\na.mp4,0.5\nb.mp4,0.5\ndeeper/c.mp4,0.5\n")
os.link("/output/other", "/output/submission.csv")
