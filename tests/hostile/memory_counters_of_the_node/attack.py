import pathlib

from hostile import escaped, say

for place in pathlib.Path("/sys/devices/system/node").glob("node*/*"):
    if place.name in {"meminfo", "vmstat", "numastat"} and place.read_bytes():
        escaped(place)
say("tried")
