from hostile import must_fail, say

for flag in (0x0040000, 0x0080000, 0x0400000, 0x0100000):  # randomisation, page zero, executable reads, compat layout
    must_fail("personality", flag)
say("tried")
