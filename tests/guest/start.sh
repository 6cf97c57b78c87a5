#!/usr/bin/busybox sh
# PID 1 of the guest: a machine with nothing but cgroup v2, the repository unpacked, and the suite run in it.
# Results go to the second serial port, all other words to the first (the console).
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/referee/src
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox mount -t tmpfs -o mode=755 run /run
busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs -o mode=1777 shm /dev/shm
busybox hostname guest
busybox ip link set lo up
busybox stty -F /dev/ttyS1 raw -echo
echo "{\"kind\": \"booted\", \"seconds\": $(busybox cut -d' ' -f1 /proc/uptime)}" > /dev/ttyS1
busybox tar -x -f /dev/vdb -C /referee
cd /referee || busybox poweroff -f
python3 tests/guest/inside.py
status=$?
echo "{\"kind\": \"end\", \"status\": $status}" > /dev/ttyS1
busybox sleep 0.2
busybox poweroff -f
