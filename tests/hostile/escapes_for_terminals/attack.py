print("\033]0;title\007\033[2J\033[31mred\x9b5n\u202e")
with open("/output/submission.csv", "w") as file:
    file.write("filename,label\n\033[2J\033]52;c;aGk=\007,0.5\n")
