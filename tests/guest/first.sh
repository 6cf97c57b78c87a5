#!/busybox sh
# PID 1 of the guest's first moments: load what is needed to mount the root, and hand over to it.
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
while read -r module; do /busybox insmod "$module" || echo "cannot load $module"; done < /order
/busybox mount -t ext4 -o noatime /dev/vda /root || exec /busybox poweroff -f
/busybox umount /proc
/busybox mount --move /dev /root/dev
exec /busybox switch_root /root /start.sh
