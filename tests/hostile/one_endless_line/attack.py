with open("/output/submission.csv", "w") as file:
    file.write("filename,label\na.mp4," + "0" * 900_000)
