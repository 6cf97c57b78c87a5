ls -R /data
cat /data/a.mp4 && echo ESCAPED a
cat /data/deeper/c.mp4 && echo ESCAPED c
echo tried
