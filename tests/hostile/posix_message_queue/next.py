from hostile import escaped, raw, say

result, error = raw("mq_open", b"meet-me", 0)
if not error:
    escaped("found the neighbour's queue")
say(error)
