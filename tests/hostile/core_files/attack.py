import os
import resource

from hostile import escaped, say

try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    escaped("core files allowed")
except (OSError, ValueError):
    say("refused")
os.abort()
