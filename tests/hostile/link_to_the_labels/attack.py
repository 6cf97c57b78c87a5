import os

# A decoy, open to everybody, with rows that would be accepted if somebody followed the link.
os.symlink("/tmp/hostile-decoy-labels.csv", "/output/submission.csv")
