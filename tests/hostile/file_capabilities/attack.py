import os
import subprocess

from hostile import escaped, say

say(subprocess.run(["/usr/bin/capable"], capture_output=True, text=True).stdout)
try:
    os.getxattr("/usr/bin/capable", "security.capability")
    escaped("the attribute is there")
except OSError as error:
    say(error)
