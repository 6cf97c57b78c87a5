echo spoiled > /data/a.mp4; rm /data/a.mp4; chmod 777 /data; touch /data/new; mkdir /data/folder; ln /data/a.mp4 /data/b; dd if=/dev/zero of=/data/a.mp4 bs=1 count=1 conv=notrunc
echo tried
