"""`python -m referee.worker`."""

import os
import sys

from referee.worker.main import main

try:
    status = main()
finally:
    sys.stdout.flush()
    sys.stderr.flush()
# Python's own way out takes signal handlers down first: a late SIGTERM would make a finished attempt look killed.
os._exit(status)
