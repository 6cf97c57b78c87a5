cat /proc/self/mountinfo /proc/1/mountinfo /etc/hosts /etc/resolv.conf /proc/self/environ /proc/1/environ /proc/self/cgroup /proc/sys/kernel/hostname /proc/sys/kernel/domainname
hostname
id
echo tried
