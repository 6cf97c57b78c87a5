from hostile import escaped, raw, say

result, error = raw("mq_open", b"meet-me", 0, 0, 0)  # a left out address is read as well
if not error:
    escaped("found the neighbour's queue")
say(error)
