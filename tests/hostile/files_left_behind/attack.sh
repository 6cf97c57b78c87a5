for place in / /tmp /dev/shm /output /data /dev /etc /usr /home /attacks /var /run /mnt; do echo trace > $place/trace-of-the-last; done 2>/dev/null
find / -xdev -name trace-of-the-last 2>/dev/null; ls /tmp
