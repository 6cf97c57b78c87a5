mkfifo /output/submission.csv
