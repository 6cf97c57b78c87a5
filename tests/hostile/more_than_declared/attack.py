import os

for name in ("result.json", "log.txt", "score.json", "predictions.csv", "attempt.json"):
    with open(f"/output/{name}", "w") as file:
        file.write('{"verdict": "ok", "score": 0.0}')
os.mkdir("/output/results")
with open("/output/submission.csv", "w") as file:
    file.write("filename,label\na.mp4,0.5\nb.mp4,0.5\ndeeper/c.mp4,0.5\n")
