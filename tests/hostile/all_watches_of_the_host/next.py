from hostile import escaped, raw, say

result, error = raw("inotify_init1", 0)
if error in {"EMFILE", "ENFILE", "EAGAIN", "ENOSPC"}:
    escaped("nothing is left for a neighbour:", error)
say(error or "ok")
