import pathlib

from hostile import escaped, say

NAMES = """loadavg pressure/cpu pressure/memory pressure/io vmstat buddyinfo zoneinfo schedstat softirqs interrupts locks
diskstats partitions keys key-users kallsyms kmsg slabinfo swaps timer_list sched_debug cmdline
sys/fs/file-nr sys/fs/inode-nr sys/fs/inode-state sys/fs/dentry-state sys/fs/aio-nr sys/kernel/pty/nr
sys/kernel/random/boot_id"""
for name in NAMES.split():
    try:
        seen = pathlib.Path("/proc", name).read_bytes()[:40]
    except OSError:
        continue
    if seen:
        escaped(name, seen)
say("tried")
