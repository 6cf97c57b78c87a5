mkdir -p /output/submission.csv/deeper
