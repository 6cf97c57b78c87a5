import os

from hostile import escaped, say

# Settings of this network namespace are the decoy; the host's own are opened, never written.
for name in ("net/ipv4/ip_forward", "net/ipv4/ip_default_ttl"):
    try:
        with open(f"/proc/sys/{name}", "r+") as file:
            value = file.read()
            file.seek(0)
            file.write(value)
        escaped("wrote", name)
    except OSError as error:
        say(name, error)
for name in ("kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "vm/drop_caches", "fs/binfmt_misc/register"):
    try:
        os.close(os.open(f"/proc/sys/{name}", os.O_WRONLY))
        escaped("opened", name)
    except OSError as error:
        say(name, error)
try:
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
    if os.stat("/proc/sysrq-trigger").st_rdev != os.makedev(1, 3):
        escaped("sysrq-trigger")
except OSError as error:
    say(error)
say("tried")
