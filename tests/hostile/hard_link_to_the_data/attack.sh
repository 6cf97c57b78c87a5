for file in /data/a.mp4 /etc/hosts /etc/passwd; do ln $file /output/submission.csv && echo ESCAPED; done
echo tried
