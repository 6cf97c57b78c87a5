dd if=/dev/zero of=/tmp/a bs=1M count=$((100 + EXTRA_MIB)); dd if=/dev/zero of=/dev/shm/a bs=1M count=60; dd if=/dev/zero of=/fill bs=1M count=100
exit 1
