import os

for place in ("/work/cache", "/root/.cache/torch", "/usr/lib/cache", "/var/lib/thing"):
    os.makedirs(place)
    with open(f"{place}/file", "w") as file:
        file.write("x")
with open("relative", "w") as file:
    file.write("x")

with open("/output/submission.csv", "w") as file:
    file.write("filename,label\na.mp4,0.5\nb.mp4,0.5\ndeeper/c.mp4,0.5\n")
