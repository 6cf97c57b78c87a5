from hostile import escaped, say

held = []
try:
    while len(held) < 600:
        held.append(open("/dev/null"))
    escaped(len(held))
except OSError:
    say("refused at", len(held))
