import pathlib

from hostile import LEVEL, escaped, say

NAMES = """loadavg pressure/cpu pressure/memory pressure/io vmstat buddyinfo zoneinfo schedstat softirqs interrupts locks
diskstats partitions keys key-users kallsyms kmsg slabinfo swaps timer_list sched_debug cmdline
sys/fs/file-nr sys/fs/inode-nr sys/fs/inode-state sys/fs/dentry-state sys/fs/aio-nr sys/kernel/pty/nr
sys/kernel/random/boot_id"""
# gVisor's own, the same at all times and on every machine.
SENTRYS = {"loadavg": b"0.00 0.00 0.00 0/0 0\n", "cmdline": b"BOOT_IMAGE=/vmlinuz-4.4.0-gvisor quiet\n"}
for name in NAMES.split():
    try:
        seen = pathlib.Path("/proc", name).read_bytes()[:40]
    except OSError:
        continue
    if seen and not (LEVEL == "gvisor" and seen == SENTRYS.get(name)):
        escaped(name, seen)
say("tried")
